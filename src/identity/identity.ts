import type { Secret } from '../secret.ts';
import type { Prover } from './proof.ts';

/** This client's identity, for as long as it is held. */
export interface ClientIdentity extends AsyncDisposable {
  /** 9 hex characters. */
  readonly clientId: string;
  /** SPIFFE ID of this process. */
  readonly spiffeId: string;
  /** A fresh token for one audience. @throws HpcsError `identity` */
  jwt(audience: string): Promise<Secret>;
  /** Proves to the HPCS server that this client calls. */
  readonly prove: Prover;
}

/** What getting a {@link ClientIdentity} needs beside the configuration. */
export interface IdentityOptions {
  signal: AbortSignal;
  /** Told what is being waited for. */
  progress: (message: string) => void;
  env?: NodeJS.ProcessEnv;
}

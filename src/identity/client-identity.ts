import { readFile } from 'node:fs/promises';
import type { Config } from '../config.ts';
import { HpcsError, systemCode } from '../errors.ts';
import { HpcsServer } from '../hpcs.ts';
import { readCa } from '../http.ts';
import type { Secret } from '../secret.ts';
import { startAgent } from './agent.ts';
import { clientOf, formatSpiffeId, parseSpiffeId, spiffeIds } from './spiffe-id.ts';
import { fetchJwtSvids } from './workload-api.ts';

/** This client's identity, for as long as it is held. */
export interface ClientIdentity extends AsyncDisposable {
  /** 9 hex characters. */
  readonly clientId: string;
  /** SPIFFE ID of this process. */
  readonly spiffeId: string;
  /** A fresh token for one audience. @throws HpcsError `identity` */
  jwt(audience: string): Promise<Secret>;
}

/** What {@link openIdentity} needs beside the configuration. */
export interface IdentityOptions {
  signal: AbortSignal;
  /** Told what is being waited for. */
  progress: (message: string) => void;
  env?: NodeJS.ProcessEnv;
}

/**
 * Gets this client an identity: from the SPIRE agent at `SPIFFE_ENDPOINT_SOCKET` where that is set, else by registering at the
 * HPCS server and starting an agent that ends with the identity.
 *
 * @throws HpcsError `identity`, `local` or `usage`
 */
export async function openIdentity(config: Config, options: IdentityOptions): Promise<ClientIdentity> {
  const existing = (options.env ?? process.env)['SPIFFE_ENDPOINT_SOCKET'];
  return existing === undefined || existing === '' ? register(config, options) : adopt(config, options, existing);
}

async function adopt(config: Config, { signal, progress }: IdentityOptions, socket: string): Promise<ClientIdentity> {
  progress(`asking the SPIRE agent at ${socket} for an identity`);
  const svids = await fetchJwtSvids({ socket, audience: [config['hpcs-server'].audience], signal });
  const trustDomain = config['spire-server']['trust-domain'];
  for (const { spiffeId } of svids) {
    const id = parseSpiffeId(spiffeId);
    const clientId = clientOf(id);
    if (clientId === undefined || id.trustDomain !== trustDomain) continue;
    return {
      clientId,
      spiffeId,
      jwt: (audience) => oneToken(socket, spiffeId, audience, signal),
      [Symbol.asyncDispose]: async () => undefined,
    };
  }
  throw new HpcsError(
    'identity',
    'not-a-client',
    `the SPIRE agent at ${socket} gave this process no client identity of ${trustDomain}, but ${svids.map((svid) => svid.spiffeId).join(', ')}`,
    { suggestion: 'unset SPIFFE_ENDPOINT_SOCKET to register this client, or let an entry for it be made' },
  );
}

async function register(config: Config, { signal, progress }: IdentityOptions): Promise<ClientIdentity> {
  await using server = new HpcsServer({
    url: config['hpcs-server'].url,
    ca: await readCa(config['hpcs-server']['ca-file']),
    allowInsecureHttp: config.client['allow-insecure-http'],
  });
  const spire = config['spire-server'];
  const trustBundle = await readTrustBundle(spire['trust-bundle-file'], server, signal);
  progress(`registering at the HPCS server ${config['hpcs-server'].url}`);
  const registration = await server.register({ uid: process.getuid?.(), signal });
  using joinToken = registration.joinToken;
  progress('starting spire-agent and waiting for an identity');
  await using cleanup = new AsyncDisposableStack();
  const agent = await startAgent({
    bin: config['spire-agent'].bin,
    serverAddress: spire.address,
    serverPort: spire.port,
    trustDomain: spire['trust-domain'],
    trustBundle,
    joinToken,
    signal,
  });
  cleanup.use(agent);
  const { clientId } = registration;
  const spiffeId = formatSpiffeId(spiffeIds.clientWorkload(spire['trust-domain'], clientId));
  // The first token proves that the agent knows this process, before anything is built upon it.
  await oneToken(agent.socket, spiffeId, config['hpcs-server'].audience, signal);
  const owned = cleanup.move();
  return {
    clientId,
    spiffeId,
    jwt: (audience) => oneToken(agent.socket, spiffeId, audience, signal),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function oneToken(socket: string, spiffeId: string, audience: string, signal: AbortSignal): Promise<Secret> {
  const svids = await fetchJwtSvids({ socket, spiffeId, audience: [audience], signal });
  const [svid] = svids;
  if (svid === undefined || svid.spiffeId !== spiffeId) {
    throw new HpcsError('identity', 'no-identity', `the SPIRE agent at ${socket} did not issue ${spiffeId}`, {
      suggestion: 'try again',
    });
  }
  return svid.token;
}

/** PEM text of the SPIRE server's authorities: from the configured file, else from the HPCS server. @throws HpcsError `usage` */
export async function readTrustBundle(file: string | undefined, server: HpcsServer, signal: AbortSignal): Promise<string> {
  if (file === undefined) {
    const bundle = await server.trustBundle(signal);
    if (bundle !== undefined) return bundle;
    throw new HpcsError('usage', 'trust-bundle-missing', 'the HPCS server does not hand out the trust bundle of SPIRE', {
      suggestion: 'set trust-bundle-file in section [spire-server] (spire-server bundle show prints it)',
    });
  }
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new HpcsError(
      'usage',
      'trust-bundle-unreadable',
      `cannot read the trust-bundle-file ${file}: ${systemCode(error) ?? 'unknown error'}`,
      { cause: error, suggestion: 'correct trust-bundle-file in section [spire-server]' },
    );
  }
}

import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config.ts';
import { HpcsError } from '../errors.ts';
import type { HpcsServer, LoginIssuer } from '../hpcs.ts';
import { readCa } from '../http.ts';
import { stateDirectory, writeDurably } from '../state.ts';
import { parseEnrolled, readEnrolled, type Enrolled } from './enrolled.ts';
import { generateProofKey, keyProver, thumbprintOf } from './proof.ts';

/** What a login gave: a key that counts for a while. */
export type Session = Enrolled & { expires: string };

/** Where the session of a person who logged in lies, mode 0600. @throws HpcsError `local` as {@link stateDirectory} */
export async function loginFile(config: Config, env?: NodeJS.ProcessEnv): Promise<string> {
  return join(await stateDirectory(config, env), 'client-login.json');
}

/** What {@link logIn} needs beside the server. */
export interface LoginOptions {
  config: Config;
  /** Where the session is kept; one that is there is replaced. */
  file: string;
  /** Told which issuer is gone to, before. */
  progress: (message: string) => void;
  show: (place: { url: string; code: string; complete: string | undefined }) => void;
  signal: AbortSignal;
}

/**
 * Logs a person in: by the device flow at an issuer that the HPCS server trusts, with a new key.
 *
 * @throws HpcsError `usage` where it is not clear which issuer, `identity` when refused
 */
export async function logIn(server: HpcsServer, options: LoginOptions): Promise<Session> {
  const { config, file, progress, show, signal } = options;
  const issuer = chooseIssuer(await server.issuers(signal), config.identity);
  const before = await readEnrolled(file);
  const key = await generateProofKey();
  progress(`logging in at ${issuer.issuer}, as its client ${issuer.audience}`);
  // What speaks OpenID Connect is needed here alone.
  const { deviceFlow } = await import('./device-flow.ts');
  using token = await deviceFlow({
    issuer: issuer.issuer,
    clientId: issuer.audience,
    scope: issuer.scope,
    nonce: await thumbprintOf(key),
    ca: await readCa(config.identity['issuer-ca-file']),
    show,
    signal,
  });
  const made = await server.login(token, keyProver(key), signal);
  const session = sessionOf(config['hpcs-server'].url, made, key);
  await writeDurably(file, JSON.stringify(session));
  // It would end by itself.
  if (before !== undefined) await server.logout(keyProver(before.key), signal).catch(() => undefined);
  return session;
}

/**
 * Ends the session that a file holds, at the server and here.
 *
 * @returns whose it was; undefined where there is none
 * @throws HpcsError `identity` when the server could not be told: it is gone here nevertheless
 */
export async function logOut(server: HpcsServer, file: string, signal: AbortSignal): Promise<Enrolled | undefined> {
  const session = await readEnrolled(file);
  if (session === undefined) return undefined;
  await rm(file, { force: true });
  if (isOver(session)) return session;
  await server.logout(keyProver(session.key), signal);
  return session;
}

/** Whether a session has ended, or is about to: a call takes its time. */
export function isOver({ expires }: Pick<Enrolled, 'expires'>, margin = 0): boolean {
  return expires !== undefined && new Date(expires).getTime() - margin <= Date.now();
}

/** A session as it is kept. */
export function sessionOf(
  server: string,
  made: { clientId: string; name: string; spiffeId: string; trustDomain: string; expires: string },
  key: object,
): Session {
  return { ...parseEnrolled({ version: 1, server, ...made, key }), expires: made.expires };
}

/**
 * The issuer of people that is meant. What the configuration says must hold, whatever the server says.
 *
 * @throws HpcsError `usage`
 */
export function chooseIssuer(
  issuers: readonly LoginIssuer[],
  { issuer, 'client-id': clientId }: Pick<Config['identity'], 'issuer' | 'client-id'>,
): LoginIssuer {
  const found = issuers.filter(
    (one) => one.kind === 'people' && (issuer === undefined || [one.issuer, one.name].includes(issuer)),
  );
  const [first, second] = found;
  if (first === undefined) {
    const what = issuer === undefined ? 'no issuer that people can log in at' : `no issuer of people ${issuer}`;
    throw new HpcsError('usage', 'no-issuer', `the HPCS server knows ${what}`, {
      suggestion: 'correct issuer in section [identity], or enrol this client: hpcs enrol',
    });
  }
  if (second !== undefined) {
    throw new HpcsError(
      'usage',
      'which-issuer',
      `the HPCS server knows several issuers: ${found.map((one) => one.issuer).join(', ')}`,
      {
        suggestion: 'name one of them as issuer in section [identity]',
      },
    );
  }
  if (clientId !== undefined && clientId !== first.audience) {
    throw new HpcsError('usage', 'other-client-id', `the HPCS server wants tokens for ${first.audience}, not for ${clientId}`, {
      suggestion: 'correct client-id in section [identity], if that is right',
    });
  }
  return first;
}

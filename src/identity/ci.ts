import { createHash, randomBytes } from 'node:crypto';
import { link, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { JWK } from 'jose';
import { z } from 'zod';
import type { Config } from '../config.ts';
import { HpcsError, systemCode } from '../errors.ts';
import type { HpcsServer } from '../hpcs.ts';
import { HttpClient, readCa } from '../http.ts';
import { Secret } from '../secret.ts';
import { stateDirectory, writeDurably } from '../state.ts';
import { readEnrolled } from './enrolled.ts';
import { isOver, sessionOf, type Session } from './login.ts';
import { generateProofKey, keyProver, thumbprintOf } from './proof.ts';

/** Where a CI job's token is to be had. */
export type CiSource =
  | { kind: 'github'; url: string; token: Secret }
  /** A token that the job was given: GitLab's `id_tokens`, or another's. */
  | { kind: 'given'; token: Secret; from: string }
  | { kind: 'file'; file: string };

/**
 * The token source of the CI job that this process runs in, or undefined outside of one.
 *
 * @see GitLab: `id_tokens`, in a variable that the job names: HPCS_ID_TOKEN, or a file, HPCS_ID_TOKEN_FILE; GitHub: a job with
 * `permissions: id-token: write` has ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN
 */
export function ciSource(env: NodeJS.ProcessEnv): CiSource | undefined {
  const { HPCS_ID_TOKEN: given, HPCS_ID_TOKEN_FILE: file, ACTIONS_ID_TOKEN_REQUEST_URL: url } = env;
  if (given) return { kind: 'given', token: new Secret(given), from: 'HPCS_ID_TOKEN' };
  if (file) return { kind: 'file', file };
  const token = env['ACTIONS_ID_TOKEN_REQUEST_TOKEN'];
  return url && token ? { kind: 'github', url, token: new Secret(token) } : undefined;
}

/** A CI job's session, which may be had again while the job's tokens are. */
export interface CiSession {
  session: Session;
  renew: Renewal;
}

/** Logs in again; given the signal of the call that needs it. */
type Renewal = (signal: AbortSignal | undefined) => Promise<Session>;

/**
 * Logs a CI job in with its token. GitHub gives one for this key alone, as often as it is asked. A token that the job was given is
 * one: its key lies in the state directory, so that every command of the job comes with the same.
 *
 * @throws HpcsError `identity` when refused, `usage`, `local`
 */
export async function ciLogin(
  source: CiSource,
  server: HpcsServer,
  options: { config: Config; signal: AbortSignal; env?: NodeJS.ProcessEnv | undefined },
): Promise<CiSession> {
  const { config, signal } = options;
  const { url } = config['hpcs-server'];
  const renewed = async (token: Secret, key: JWK, signal: AbortSignal | undefined): Promise<Session> =>
    sessionOf(url, await server.login(token, keyProver(key), signal), key);
  if (source.kind === 'github') {
    const key = await generateProofKey();
    const renew: Renewal = async (signal) => {
      using token = await githubToken(source, server, await thumbprintOf(key), config, signal);
      return await renewed(token, key, signal);
    };
    return { session: await renew(signal), renew };
  }
  const token = source.kind === 'given' ? source.token : await readToken(source.file);
  const directory = await stateDirectory(config, options.env);
  await forgetEnded(directory);
  const place = join(directory, `ci-${createHash('sha256').update(token.bytes()).digest('hex').slice(0, 32)}`);
  const key = await keyOnce(`${place}.key`);
  const renew: Renewal = async (signal) => {
    const session = await renewed(token, key, signal);
    await writeDurably(`${place}.json`, JSON.stringify(session));
    return session;
  };
  // A short-lived token may be over before the session is that it began.
  const known = await readEnrolled(`${place}.json`);
  const usable = known?.expires !== undefined && known.server === url ? { ...known, expires: known.expires } : undefined;
  return { session: await lasting(usable, renew, signal), renew };
}

/** A session that is to end this soon is renewed first, where it can be; in milliseconds. */
const renewalMargin = 60_000;

/**
 * The session to go on with: the current one, or another where it is about to end. Where there is none to be had, such as when the job's
 * token is over, the current one is good to its end.
 *
 * @throws what `renew` does, where no session is left
 */
export async function lasting(current: Session | undefined, renew: Renewal, signal: AbortSignal | undefined): Promise<Session> {
  if (current !== undefined && !isOver(current, renewalMargin)) return current;
  try {
    return await renew(signal);
  } catch (error) {
    signal?.throwIfAborted();
    if (current === undefined || isOver(current)) throw error;
    return current;
  }
}

/** Files of one job's session, and what a command that was killed left of them. */
const ours = /^(ci-[0-9a-f]{32})\.(?:json|key)(?:\.[0-9a-f]{12}){0,2}(?:\.tmp)?$/;
/** A server takes no token that is older than a day; after that, and some time, nobody comes with its key again. In milliseconds. */
const longestUse = 25 * 3_600_000;

/**
 * Deletes what CI jobs left in a state directory that runners share: keys and sessions that ended so long ago that no token brings them
 * back. Other files, and sessions of jobs that may still run, stay. What cannot be deleted is left to the next who comes.
 */
export async function forgetEnded(directory: string): Promise<void> {
  const files = new Map<string, string[]>();
  for (const name of await readdir(directory).catch(() => [])) {
    const place = ours.exec(name)?.[1];
    if (place !== undefined) files.set(place, [...(files.get(place) ?? []), join(directory, name)]);
  }
  for (const [place, names] of files) {
    if (!(await isForgettable(join(directory, place), names).catch(() => false))) continue;
    for (const name of names) await rm(name, { force: true }).catch(() => undefined);
  }
}

async function isForgettable(place: string, names: readonly string[]): Promise<boolean> {
  const over = Date.now() - longestUse;
  const session = await readEnrolled(`${place}.json`);
  if (session?.expires !== undefined && new Date(session.expires).getTime() > over) return false;
  // Where the login was refused there is a key alone, which may be tried again.
  for (const name of names) if ((await stat(name)).mtimeMs > over) return false;
  return true;
}

const answer = z.object({ value: z.string().min(1) });

// The audience holds the key's thumbprint: the token is of no use to whoever sees it, nor anywhere else, whatever audience a server names.
async function githubToken(
  source: { url: string; token: Secret },
  server: HpcsServer,
  thumbprint: string,
  config: Config,
  signal: AbortSignal | undefined,
): Promise<Secret> {
  const issuers = (await server.issuers(signal)).filter(({ kind }) => kind === 'github');
  const wanted = config.identity.issuer;
  const issuer = issuers.find((one) => wanted === undefined || [one.issuer, one.name].includes(wanted));
  if (issuer === undefined) {
    throw new HpcsError('usage', 'no-issuer', 'the HPCS server takes no tokens of GitHub', {
      suggestion: 'ask those who run it to trust this repository, or enrol this client: hpcs enrol',
    });
  }
  const place = new URL(source.url);
  place.searchParams.set('audience', `${issuer.audience}/key/${thumbprint}`);
  const ca = await readCa(config.identity['issuer-ca-file']);
  await using http = new HttpClient({ name: 'token service of GitHub Actions', url: place.origin, ca });
  const { status, body } = await http.json('GET', place.pathname + place.search, {
    headers: { authorization: new Secret(`Bearer ${source.token.reveal()}`) },
    signal,
  });
  const parsed = answer.safeParse(body);
  if (status === 200 && parsed.success) return new Secret(parsed.data.value);
  throw new HpcsError('identity', 'no-ci-token', `the token service of GitHub Actions gave no token (${status})`, {
    suggestion: 'give the job permissions: id-token: write',
  });
}

async function readToken(file: string): Promise<Secret> {
  try {
    return new Secret((await readFile(file, 'utf8')).trim());
  } catch (error) {
    throw new HpcsError(
      'usage',
      'token-unreadable',
      `cannot read HPCS_ID_TOKEN_FILE ${file}: ${systemCode(error) ?? 'unknown error'}`,
      {
        cause: error,
        suggestion: 'name a readable file that holds the token of this job',
      },
    );
  }
}

// Two commands of a job may start at the same moment: one key wins, and both come with it.
async function keyOnce(file: string): Promise<JWK> {
  const mine = `${file}.${randomBytes(6).toString('hex')}`;
  await writeDurably(mine, JSON.stringify(await generateProofKey()));
  try {
    await link(mine, file);
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') {
      throw new HpcsError('local', 'write-failed', `cannot write ${file}: ${systemCode(error) ?? 'unknown error'}`, {
        cause: error,
        suggestion: 'set HPCS_STATE_DIR to a directory of your own',
      });
    }
  } finally {
    await rm(mine, { force: true });
  }
  return JSON.parse(await readFile(file, 'utf8')) as JWK;
}

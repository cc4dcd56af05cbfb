import { spawn } from 'node:child_process';
import { z } from 'zod';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import { Secret } from '../secret.ts';
import type { DockerConfig } from './docker-config.ts';

/** Key of Docker Hub in the Docker client's configuration, kept from the days of its first API. */
export const dockerHub = 'https://index.docker.io/v1/';

/** What opens a registry. Either a password with a user name, or a token. */
export interface RegistryCredentials {
  /** As the engine wants it: a host name, or Docker Hub's old URL. */
  readonly registry: string;
  readonly username: string;
  readonly secret: Secret;
  readonly kind: 'password' | 'identitytoken' | 'registrytoken';
}

/**
 * The registry's key in the Docker client's configuration.
 *
 * @param repository for example `debian`, `ghcr.io/owner/name`, `localhost:5000/name`
 * @see Docker distribution reference, "familiar names": a first part without dot, colon or `localhost` is no host
 */
export function registryOf(repository: string): string {
  const [first = '', ...rest] = repository.split('/');
  const isHost = rest.length > 0 && (/[.:]/.test(first) || first === 'localhost' || first !== first.toLowerCase());
  if (!isHost || first === 'docker.io' || first === 'index.docker.io' || first === 'registry-1.docker.io') return dockerHub;
  return first;
}

/**
 * Finds the credentials for a registry as the Docker client does: its own helper, the common helper, then the file itself.
 *
 * @returns undefined where none are stored: the registry is then asked without
 * @throws HpcsError `local` when a helper fails
 */
export async function findCredentials(
  registry: string,
  config: DockerConfig,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<RegistryCredentials | undefined> {
  const helper = config.credHelpers[registry] ?? config.credsStore;
  if (helper !== undefined && helper !== '') {
    const answer = await askHelper(helper, registry, options.signal);
    const found = answer === undefined ? undefined : readAnswer(helper, registry, answer);
    if (found !== undefined) return found;
  }
  const key = Object.keys(config.auths).find((name) => name === registry || hostOf(name) === registry);
  const entry = key === undefined ? undefined : config.auths[key];
  if (entry === undefined) return undefined;
  if (entry.registrytoken) return { registry, username: '', secret: new Secret(entry.registrytoken), kind: 'registrytoken' };
  const [username, password] = entry.auth ? splitAuth(entry.auth) : [entry.username, entry.password];
  if (entry.identitytoken)
    return { registry, username: username ?? '', secret: new Secret(entry.identitytoken), kind: 'identitytoken' };
  if (!username || !password) return undefined;
  return { registry, username, secret: new Secret(password), kind: 'password' };
}

/** The object that dockerode sends in the header `X-Registry-Auth`. Holds the secret in clear: use it at once and drop it. */
export function authConfig(credentials: RegistryCredentials): Record<string, string> {
  const { registry, username, secret, kind } = credentials;
  return { serveraddress: registry, ...(username === '' ? {} : { username }), [kind]: secret.reveal() };
}

function hostOf(name: string): string {
  return name.replace(/^https?:\/\//, '').split('/', 1)[0] ?? '';
}

function splitAuth(auth: string): [string, string] {
  const decoded = Buffer.from(auth, 'base64').toString('utf8').replace(/\0+$/, '');
  const colon = decoded.indexOf(':');
  return colon < 0 ? [decoded, ''] : [decoded.slice(0, colon), decoded.slice(colon + 1)];
}

function readAnswer(helper: string, registry: string, answer: string): RegistryCredentials | undefined {
  const schema = z.object({ Username: z.string(), Secret: z.string() });
  let parsed: z.output<typeof schema>;
  try {
    parsed = schema.parse(JSON.parse(answer));
  } catch {
    // Neither the answer nor the parser's message may be shown: the secret is in it.
    throw helperError(helper, registry, 'its answer is not what the protocol says');
  }
  if (parsed.Secret === '') return undefined;
  const kind = parsed.Username === '<token>' ? 'identitytoken' : 'password';
  return { registry, username: kind === 'password' ? parsed.Username : '', secret: new Secret(parsed.Secret), kind };
}

/**
 * Asks a credential helper: the registry on its standard input, JSON on its standard output.
 *
 * @returns undefined where it has none for this registry
 * @see docker-credential-helpers, "Development": `docker-credential-NAME get`
 */
function askHelper(helper: string, registry: string, signal?: AbortSignal): Promise<string | undefined> {
  if (!/^[A-Za-z0-9._-]+$/.test(helper)) throw helperError(helper, registry, 'that is not the name of a program');
  return new Promise((resolve, reject) => {
    const child = spawn(`docker-credential-${helper}`, ['get'], { stdio: ['pipe', 'pipe', 'pipe'], signal });
    let answer = '';
    let words = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (answer += chunk));
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => (words = (words + chunk).slice(-1000)));
    child.on('error', (error) => {
      if (signal?.aborted) reject(signal.reason instanceof Error ? signal.reason : error);
      else if (systemCode(error) === 'ENOENT') reject(helperError(helper, registry, 'it is not installed'));
      else reject(helperError(helper, registry, messageOf(error)));
    });
    child.on('close', (code) => {
      if (code === 0) resolve(answer);
      // Helpers say on standard output what is wrong.
      else if (/credentials not found/i.test(answer)) resolve(undefined);
      else reject(helperError(helper, registry, (answer || words).trim().split('\n')[0] || `it ended with ${code}`));
    });
    // A helper may end without reading.
    child.stdin.on('error', () => {});
    child.stdin.end(registry);
  });
}

function helperError(helper: string, registry: string, what: string): HpcsError {
  return new HpcsError('local', 'credential-helper', `docker-credential-${helper} gave no credentials for ${registry}: ${what}`, {
    suggestion: "repair it, or 'docker login' again; config.json of the Docker client names it (credsStore, credHelpers)",
  });
}

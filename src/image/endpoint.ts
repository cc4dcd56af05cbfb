import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HpcsError, systemCode } from '../errors.ts';
import { homeOf } from '../home.ts';
import { contextHost, readDockerConfig } from './docker-config.ts';

/** Where a Docker engine answers. */
export type DockerEndpoint =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number; readonly tls: TlsFiles | undefined }
  | { readonly kind: 'ssh'; readonly host: string; readonly port: number | undefined; readonly user: string | undefined };

/** PEM texts for a TLS connection to an engine. Without `cert` and `key` the client does not show itself. */
export interface TlsFiles {
  readonly ca: string | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
  /** False only where the user turned checking off, as the Docker client allows with `DOCKER_TLS`. */
  readonly verify: boolean;
}

/**
 * Finds the engine as the Docker client does: the flag, `DOCKER_HOST`, `DOCKER_CONTEXT`, the current context, the default socket.
 *
 * @param flag value of `--docker-path`: a socket's path, or any address that `DOCKER_HOST` may hold
 * @throws HpcsError `usage` for an address of an unknown form, `local` for unreadable certificates or contexts
 */
export async function findEndpoint(flag: string | undefined, env: NodeJS.ProcessEnv = process.env): Promise<DockerEndpoint> {
  const address = flag || env['DOCKER_HOST'] || (await contextAddress(env)) || '/var/run/docker.sock';
  const endpoint = parseEndpoint(address);
  if (endpoint.kind !== 'tcp') return endpoint;
  return { ...endpoint, tls: await tlsFiles(endpoint.tls !== undefined, env) };
}

/**
 * Parses an engine's address: `unix:///path`, `/path`, `tcp://host[:port]`, `https://host[:port]`, `ssh://[user@]host[:port]`.
 *
 * @throws HpcsError `usage`
 */
export function parseEndpoint(address: string): DockerEndpoint {
  if (address.startsWith('/')) return { kind: 'unix', path: address };
  let url: URL;
  try {
    url = new URL(address.includes('://') ? address : `tcp://${address}`);
  } catch {
    throw unknownForm(address);
  }
  if (url.password !== '') {
    throw new HpcsError('usage', 'docker-address', 'the address of the Docker engine holds a password', {
      suggestion: 'use keys: an SSH agent for ssh://, DOCKER_CERT_PATH for tcp://',
    });
  }
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  switch (url.protocol) {
    case 'unix:': {
      const path = decodeURIComponent(address.slice('unix://'.length));
      if (!path.startsWith('/')) throw unknownForm(address);
      return { kind: 'unix', path };
    }
    case 'tcp:':
    case 'http:':
    case 'https:': {
      if (host === '' || !/^\/?$/.test(url.pathname)) throw unknownForm(address);
      const secure = url.protocol === 'https:' || url.port === '2376';
      return {
        kind: 'tcp',
        host,
        port: Number(url.port || (secure ? 2376 : 2375)),
        tls: secure ? { ca: undefined, cert: undefined, key: undefined, verify: true } : undefined,
      };
    }
    case 'ssh:': {
      // A host that begins with a dash would be an option to ssh.
      const user = url.username === '' ? undefined : decodeURIComponent(url.username);
      if (host === '' || host.startsWith('-') || user?.startsWith('-')) throw unknownForm(address);
      return { kind: 'ssh', host, port: url.port === '' ? undefined : Number(url.port), user };
    }
    default:
      throw unknownForm(address);
  }
}

/** The address in words, for messages. */
export function describeEndpoint(endpoint: DockerEndpoint): string {
  switch (endpoint.kind) {
    case 'unix':
      return endpoint.path;
    case 'tcp':
      return `${endpoint.tls === undefined ? 'tcp' : 'https'}://${endpoint.host}:${endpoint.port}`;
    case 'ssh':
      return `ssh://${endpoint.user === undefined ? '' : `${endpoint.user}@`}${endpoint.host}`;
    default:
      return endpoint satisfies never;
  }
}

async function contextAddress(env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const name = env['DOCKER_CONTEXT'] || (await readDockerConfig(env)).currentContext;
  return name === undefined || name === 'default' ? undefined : contextHost(name, env);
}

/** @see Docker CLI reference, environment variables DOCKER_TLS, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH */
async function tlsFiles(secure: boolean, env: NodeJS.ProcessEnv): Promise<TlsFiles | undefined> {
  const verify = Boolean(env['DOCKER_TLS_VERIFY']);
  if (!secure && !verify && !env['DOCKER_TLS']) return undefined;
  const directory = env['DOCKER_CERT_PATH'] || join(homeOf(env), '.docker');
  const [ca, cert, key] = await Promise.all(
    ['ca.pem', 'cert.pem', 'key.pem'].map((name) => pem(join(directory, name), Boolean(env['DOCKER_CERT_PATH']))),
  );
  return { ca, cert, key, verify: verify || !env['DOCKER_TLS'] };
}

async function pem(file: string, asked: boolean): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT' && !asked) return undefined;
    throw new HpcsError('local', 'docker-certificates', `cannot read ${file}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
      suggestion: 'DOCKER_CERT_PATH names the directory that holds ca.pem, cert.pem and key.pem',
    });
  }
}

function unknownForm(address: string): HpcsError {
  return new HpcsError('usage', 'docker-address', `not an address of a Docker engine: ${address}`, {
    suggestion: 'use a socket path, unix:///path, tcp://host:port or ssh://user@host with --docker-path or DOCKER_HOST',
  });
}

import { Agent } from 'node:http';
import { Agent as SecureAgent } from 'node:https';
import type { Duplex } from 'node:stream';
import Docker from 'dockerode';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import { describeEndpoint, findEndpoint, type DockerEndpoint } from './endpoint.ts';
import { SshAgent } from './ssh-agent.ts';

/** Longest wait for the first answer of an engine, in milliseconds; one behind SSH may ask for a touch on a key. */
const patience = { local: 10_000, ssh: 60_000 };

/** How to find the engine. */
export interface DockerOptions {
  /** Value of `--docker-path`: a socket, or any address that `DOCKER_HOST` may hold. */
  address?: string | undefined;
  env?: NodeJS.ProcessEnv;
  signal?: AbortSignal | undefined;
}

/**
 * Opens the connection to a Docker engine and checks that it answers.
 *
 * @throws HpcsError `local` when it does not, `usage` for an address of an unknown form
 */
export async function connectDocker(options: DockerOptions = {}): Promise<Docker> {
  const endpoint = await findEndpoint(options.address, options.env);
  const sshAgent = endpoint.kind === 'ssh' ? new SshAgent(endpoint) : undefined;
  const docker = new Docker(modemOptions(endpoint, sshAgent));
  const limit = AbortSignal.timeout(sshAgent === undefined ? patience.local : patience.ssh);
  try {
    // The types know ping without options only.
    const ping = docker.ping.bind(docker) as (options: { abortSignal: AbortSignal }) => Promise<unknown>;
    await ping({ abortSignal: options.signal === undefined ? limit : AbortSignal.any([options.signal, limit]) });
  } catch (error) {
    options.signal?.throwIfAborted();
    throw unreachable(error, endpoint, limit.aborted, await sshAgent?.lastWords());
  }
  return docker;
}

// Every key is given, also as undefined: what is left out docker-modem takes from DOCKER_HOST.
function modemOptions(endpoint: DockerEndpoint, sshAgent: SshAgent | undefined): Docker.DockerOptions {
  const none = { host: undefined, port: undefined, socketPath: undefined, ca: undefined, cert: undefined, key: undefined };
  switch (endpoint.kind) {
    case 'unix':
      return { ...none, protocol: 'http', socketPath: endpoint.path, agent: new Agent() } as Docker.DockerOptions;
    case 'tcp': {
      const { host, port, tls } = endpoint;
      if (tls === undefined) return { ...none, protocol: 'http', host, port, agent: new Agent() } as Docker.DockerOptions;
      const { ca, cert, key, verify } = tls;
      const agent = new SecureAgent({ rejectUnauthorized: verify });
      return { ...none, protocol: 'https', host, port, ca, cert, key, agent } as Docker.DockerOptions;
    }
    case 'ssh':
      return { ...none, protocol: 'http', host: 'docker', port: 80, agent: sshAgent } as Docker.DockerOptions;
    default:
      return endpoint satisfies never;
  }
}

/** Whether an engine is reached over a socket of this machine. */
export function isLocal(docker: Docker): boolean {
  return (docker.modem as { socketPath?: unknown }).socketPath !== undefined;
}

/** A request to an engine for which dockerode has no call, or one that cannot do what is needed. */
export interface EngineRequest {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly body?: object;
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  /** The connection becomes ours when the engine has agreed to another protocol. */
  readonly hijack?: boolean;
  /** Ends the wait for the answer, and the answer. */
  readonly signal?: AbortSignal;
}

/**
 * Makes a request and waits for the head of its answer.
 *
 * @returns the answer's body, or the connection
 * @throws what dockerode throws: see {@link engineStatus} and {@link engineMessage}
 */
export function dial(docker: Docker, { method, path, body, headers, hijack, signal }: EngineRequest): Promise<Duplex> {
  const request = {
    method,
    path: body === undefined ? path : `${path}?`,
    ...(body === undefined ? {} : { options: body }),
    ...(headers === undefined ? {} : { headers: { ...headers } }),
    ...(hijack === undefined ? {} : { hijack }),
    ...(signal === undefined ? {} : { abortSignal: signal }),
    isStream: true,
    // Where another protocol is asked for, an answer in this one is a refusal.
    statusCodes: { ...(hijack === true ? {} : { 200: true }), 404: 'not found', 500: 'server error' },
  };
  const modem = docker.modem as { dial(request: unknown, done: (error: unknown, answer: Duplex) => void): void };
  return new Promise((resolve, reject) => {
    modem.dial(request, (error, answer) => {
      if (error) reject(error instanceof Error ? error : new Error(messageOf(error)));
      else resolve(answer);
    });
  });
}

/** What the engine itself says about an error, without dockerode's wrapping. */
export function engineMessage(error: unknown): string {
  if (typeof error === 'object' && error !== null && 'json' in error) {
    const { json } = error;
    if (typeof json === 'object' && json !== null && 'message' in json && typeof json.message === 'string') return json.message;
  }
  return messageOf(error)
    .replace(/^\(HTTP code \d+\) [^-]* - /, '')
    .trim();
}

/** The HTTP status an engine answered with, or undefined when it did not answer. */
export function engineStatus(error: unknown): number | undefined {
  if (typeof error !== 'object' || error === null || !('statusCode' in error)) return undefined;
  return typeof error.statusCode === 'number' ? error.statusCode : undefined;
}

/** An engine's error as ours. `what` is what was tried: `cannot start the build container`. */
export function dockerError(what: string, error: unknown): HpcsError {
  if (error instanceof HpcsError) return error;
  return new HpcsError('local', 'docker', `${what}: ${engineMessage(error)}`, {
    cause: error,
    suggestion: 'see the log of the Docker engine, and check that it has memory and disk left',
  });
}

function unreachable(error: unknown, endpoint: DockerEndpoint, late: boolean, sshWords: string | undefined): HpcsError {
  const where = describeEndpoint(endpoint);
  const code = systemCode(error);
  const status = engineStatus(error);
  const reason = late ? 'no answer' : sshWords || (status === undefined ? code : `status ${status}`) || messageOf(error);
  return new HpcsError('local', 'docker-unreachable', `cannot reach a Docker engine at ${where}: ${reason}`, {
    cause: error,
    suggestion: adviceFor(endpoint, code),
  });
}

function adviceFor(endpoint: DockerEndpoint, code: string | undefined): string {
  if (code === 'EACCES') return "join the group 'docker', or name the socket of an engine of your own with --docker-path";
  if (endpoint.kind === 'ssh') return `check that 'ssh ${endpoint.host} docker version' works`;
  if (endpoint.kind === 'tcp' && /CERT|SSL|TLS|ISSUER|SIGNED|ALTNAME/.test(code ?? ''))
    return 'set DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem';
  return 'start Docker, or name another engine with --docker-path or DOCKER_HOST';
}

import { Agent } from 'node:http';
import { Agent as SecureAgent } from 'node:https';
import { hostname } from 'node:os';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import Docker from 'dockerode';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import { describeEndpoint, findEndpoint, type DockerEndpoint } from './endpoint.ts';
import { SshAgent } from './ssh-agent.ts';

/** Longest wait for the first answer of an engine, in milliseconds; one behind SSH may ask for a touch on a key. */
const patience = { local: 10_000, ssh: 60_000 };

/** Bytes of a container's standard error that are kept for messages. */
const keptWords = 16 * 1024;

/** Marks the containers of this process, so that leftovers of a killed one can be found: `docker ps -a --filter label=…`. */
export const ownLabel = { name: 'io.github.hpcs-client.process', value: `${hostname()}:${process.pid}` };

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

/** One piece of what a container wrote. Not aligned to lines or writes. */
export interface Output {
  readonly stream: 'stdout' | 'stderr';
  readonly bytes: Uint8Array;
}

/**
 * Reads the framed stream of an attached container: per frame one byte for the stream, three zero bytes, the length as 32 bit
 * big-endian, the bytes. Pieces are views of the source's chunks, so memory stays flat, and nothing is read that is not asked for.
 *
 * @throws HpcsError `local` for bytes that are no such stream, or one that ends within a frame
 * @see Docker Engine API, "Attach to a container", stream format
 */
export async function* readFrames(source: AsyncIterable<Uint8Array>): AsyncGenerator<Output> {
  const header = Buffer.alloc(8);
  let filled = 0;
  let left = 0;
  let stream: Output['stream'] = 'stdout';
  for await (const chunk of source) {
    let at = 0;
    while (at < chunk.length) {
      if (left > 0) {
        const bytes = chunk.subarray(at, at + left);
        at += bytes.length;
        left -= bytes.length;
        yield { stream, bytes };
        continue;
      }
      const part = chunk.subarray(at, at + 8 - filled);
      header.set(part, filled);
      filled += part.length;
      at += part.length;
      if (filled < 8) continue;
      filled = 0;
      const [kind = 0, ...zeros] = header.subarray(0, 4);
      if (kind > 2 || zeros.some(Boolean)) throw broken('an unknown frame');
      stream = kind === 2 ? 'stderr' : 'stdout';
      left = header.readUInt32BE(4);
    }
  }
  if (left > 0 || filled > 0) throw broken('an end within a frame');
}

function broken(what: string): HpcsError {
  return new HpcsError('local', 'docker-stream', `the stream of a container has ${what}`, {
    suggestion: 'try again; if it stays, the engine or a proxy before it is at fault',
  });
}

/** What a container of ours is made from. The rest (no log, no privileges gained) is set for all of them. */
export interface ContainerSpec {
  /** Image name or id; it must be on the engine already. */
  readonly image: string;
  readonly command: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly user?: string;
  readonly host?: Docker.HostConfig;
}

/**
 * Creates a container that is removed, with its volumes, when disposed of. It keeps no log: the default driver would write
 * standard output to the engine's disk in clear.
 *
 * @throws HpcsError `local`
 */
export async function createContainer(docker: Docker, spec: ContainerSpec, signal?: AbortSignal): Promise<OwnContainer> {
  signal?.throwIfAborted();
  let container: Docker.Container;
  try {
    // Not given the signal: an answer thrown away would leave a container behind.
    container = await docker.createContainer({
      Image: spec.image,
      Cmd: [...spec.command],
      ...(spec.entrypoint === undefined ? {} : { Entrypoint: [...spec.entrypoint] }),
      ...(spec.user === undefined ? {} : { User: spec.user }),
      AttachStdin: true,
      AttachStdout: true,
      AttachStderr: true,
      OpenStdin: true,
      StdinOnce: true,
      Tty: false,
      Labels: { [ownLabel.name]: ownLabel.value },
      HostConfig: {
        ...spec.host,
        LogConfig: { Type: 'none', Config: {} },
        SecurityOpt: ['no-new-privileges'],
      },
    });
  } catch (error) {
    throw dockerError(`cannot create a container from ${spec.image}`, error);
  }
  const own = new OwnContainer(container);
  if (signal?.aborted) {
    await own[Symbol.asyncDispose]();
    signal.throwIfAborted();
  }
  return own;
}

/** A container that this program made and will remove. */
export class OwnContainer implements AsyncDisposable {
  readonly container: Docker.Container;

  constructor(container: Docker.Container) {
    this.container = container;
  }

  /**
   * The container's file system, flattened, as a tar stream. It need never have been started.
   *
   * @throws HpcsError `local`
   */
  async *export(signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    try {
      const stream = await this.container.export({ abortSignal: signal });
      for await (const chunk of stream) yield chunk as Buffer;
    } catch (error) {
      signal?.throwIfAborted();
      throw dockerError('cannot read the file system of the image', error);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.container.remove({ force: true, v: true });
    } catch (error) {
      if (engineStatus(error) === 404) return;
      if (engineStatus(error) !== 409) throw dockerError('cannot remove a container', error);
      // Its own removal is under way.
      for (let tries = 0; tries < 100 && !(await this.#gone()); tries++) await sleep(100);
    }
  }

  async #gone(): Promise<boolean> {
    try {
      await this.container.inspect();
      return false;
    } catch {
      return true;
    }
  }
}

/**
 * Starts a container with its standard streams attached from its first byte on.
 *
 * @param signal ends the streams with the signal's reason
 * @throws HpcsError `local`
 */
export async function startContainer(docker: Docker, spec: ContainerSpec, signal?: AbortSignal): Promise<RunningContainer> {
  // Removed by the engine at its end, so that not even a killed client leaves it behind.
  const own = await createContainer(docker, { ...spec, host: { ...spec.host, AutoRemove: true } }, signal);
  try {
    const options = { stream: true, stdin: true, stdout: true, stderr: true, hijack: true };
    const connection = (await own.container.attach(options)) as Duplex;
    const exit = await awaitExit(own.container);
    await own.container.start();
    return new RunningContainer(own, connection, exit, signal);
  } catch (error) {
    await own[Symbol.asyncDispose]();
    throw dockerError(`cannot start a container from ${spec.image}`, error);
  }
}

// dockerode's wait() tells nothing until the end, so it may come too late for a short-lived container. The engine sends the
// head of its answer as soon as it waits.
function awaitExit(container: Docker.Container): Promise<{ code: Promise<number> }> {
  const request = {
    path: `/containers/${container.id}/wait?`,
    options: { _query: { condition: 'next-exit' }, _body: {} },
    method: 'POST',
    isStream: true,
    statusCodes: { 200: true, 404: 'no such container', 500: 'server error' },
  };
  return new Promise((resolve, reject) => {
    const dial = container.modem as { dial(request: unknown, done: (error: unknown, answer: Duplex) => void): void };
    dial.dial(request, (error, answer) => {
      if (error) reject(error instanceof Error ? error : new Error(messageOf(error)));
      else resolve({ code: readExit(answer) });
    });
  });
}

async function readExit(answer: AsyncIterable<Buffer>): Promise<number> {
  const parts: Buffer[] = [];
  try {
    for await (const part of answer) parts.push(part);
    const { StatusCode } = JSON.parse(Buffer.concat(parts).toString('utf8')) as { StatusCode?: number };
    return StatusCode ?? -1;
  } catch {
    return -1;
  }
}

/** A container at work, its streams in our hands. */
export class RunningContainer implements AsyncDisposable {
  /** Standard output. Read it while anything is fed: standard error comes over the same connection. */
  readonly stdout: AsyncGenerator<Uint8Array>;
  /** Exit code when it ends; -1 where the engine could not tell. */
  readonly exit: Promise<number>;
  readonly #own: OwnContainer;
  readonly #connection: Duplex;
  readonly #abort: AbortController = new AbortController();
  #words: Buffer = Buffer.alloc(0);

  constructor(own: OwnContainer, connection: Duplex, exit: { code: Promise<number> }, signal: AbortSignal | undefined) {
    this.#own = own;
    this.#connection = connection;
    this.exit = exit.code;
    // Its failures are seen by whoever reads or feeds.
    connection.on('error', () => {});
    const end = (): void => void connection.destroy(signal?.reason instanceof Error ? signal.reason : undefined);
    if (signal?.aborted) end();
    else signal?.addEventListener('abort', end, { signal: this.#abort.signal, once: true });
    this.stdout = this.#read(signal);
  }

  /** The last 16 KiB of standard error, as far as they have been read. */
  get stderr(): string {
    return this.#words.toString('utf8').trim();
  }

  async *#read(signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    try {
      for await (const { stream, bytes } of readFrames(this.#connection)) {
        if (stream === 'stdout') yield bytes;
        else this.#words = Buffer.concat([this.#words, bytes]).subarray(-keptWords);
      }
    } catch (error) {
      signal?.throwIfAborted();
      throw dockerError('lost the connection to a container', error);
    }
  }

  /**
   * Writes `input` to standard input no faster than it is taken, then closes it. A container that ends early is no error here:
   * what it says on standard error is the better message.
   */
  async feed(input: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void> {
    const connection = this.#connection;
    for await (const chunk of input) {
      if (!connection.writable) return;
      if (!connection.write(chunk)) await drained(connection);
    }
    connection.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    this.#connection.destroy();
    await this.#own[Symbol.asyncDispose]();
  }
}

function drained(connection: Duplex): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      connection.off('drain', done).off('close', done);
      resolve();
    };
    if (connection.destroyed || !connection.writableNeedDrain) resolve();
    else connection.on('drain', done).on('close', done);
  });
}

/** How a container ended that was run to its end. */
export interface ContainerResult {
  code: number;
  stdout: Buffer;
  /** The last 16 KiB. */
  stderr: string;
}

/**
 * Runs a container to its end and removes it. For small outputs: they are kept in memory.
 *
 * @throws HpcsError `local` when it cannot be run; its exit code is the caller's to judge
 */
export async function runContainer(
  docker: Docker,
  spec: ContainerSpec,
  options: { input?: AsyncIterable<Uint8Array> | Iterable<Uint8Array>; signal?: AbortSignal | undefined } = {},
): Promise<ContainerResult> {
  await using running = await startContainer(docker, spec, options.signal);
  const parts: Uint8Array[] = [];
  const read = async (): Promise<void> => {
    for await (const part of running.stdout) parts.push(part);
  };
  await Promise.all([running.feed(options.input ?? []), read()]);
  return { code: await running.exit, stdout: Buffer.concat(parts), stderr: running.stderr };
}

import { hostname } from 'node:os';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type Docker from 'dockerode';
import { dial, dockerError, engineStatus } from '../image/docker.ts';
import { readFrames } from './frames.ts';

/** Bytes of a container's standard error that are kept for messages. */
const keptWords = 16 * 1024;

/** Marks the containers of this process, so that leftovers of a killed one can be found: `docker ps -a --filter label=…`. */
export const ownLabel = { name: 'io.github.hpcs-client.process', value: `${hostname()}:${process.pid}` };

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
    const exit = await awaitExit(docker, own.container);
    await own.container.start();
    return new RunningContainer(own, connection, exit, signal);
  } catch (error) {
    await own[Symbol.asyncDispose]();
    throw dockerError(`cannot start a container from ${spec.image}`, error);
  }
}

// dockerode's wait() tells nothing until the end, so it may come too late for a short-lived container. The engine sends the
// head of its answer as soon as it waits.
async function awaitExit(docker: Docker, { id }: Docker.Container): Promise<{ code: Promise<number> }> {
  const body = { _query: { condition: 'next-exit' }, _body: {} };
  return { code: readExit(await dial(docker, { method: 'POST', path: `/containers/${id}/wait`, body })) };
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

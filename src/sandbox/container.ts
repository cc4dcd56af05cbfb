import { hostname } from 'node:os';
import { addAbortSignal, type Duplex } from 'node:stream';
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
      AttachStdout: true,
      AttachStderr: true,
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

/** How a container ended that was run to its end. */
export interface ContainerResult {
  code: number;
  stdout: Buffer;
  /** The last 16 KiB. */
  stderr: string;
}

/**
 * Runs a container to its end and removes it. It gets no input, and its output should be small: it is kept in memory.
 *
 * @param signal ends the container and the wait for it, with the signal's reason
 * @throws HpcsError `local` when it cannot be run; its exit code is the caller's to judge
 */
export async function runContainer(docker: Docker, spec: ContainerSpec, signal?: AbortSignal): Promise<ContainerResult> {
  // Removed by the engine at its end, so that not even a killed client leaves it behind.
  await using own = await createContainer(docker, { ...spec, host: { ...spec.host, AutoRemove: true } }, signal);
  const { connection, exit } = await start(docker, spec, own);
  if (signal !== undefined) addAbortSignal(signal, connection);
  const stdout: Uint8Array[] = [];
  let words: Buffer = Buffer.alloc(0);
  try {
    for await (const { stream, bytes } of readFrames(connection)) {
      if (stream === 'stdout') stdout.push(bytes);
      else words = Buffer.concat([words, bytes]).subarray(-keptWords);
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw dockerError('lost the connection to a container', error);
  }
  return { code: await exit.code, stdout: Buffer.concat(stdout), stderr: words.toString('utf8').trim() };
}

// Attached before it starts: no byte of its output is missed.
async function start(
  docker: Docker,
  { image }: ContainerSpec,
  { container }: OwnContainer,
): Promise<{ connection: Duplex; exit: { code: Promise<number> } }> {
  let connection: Duplex | undefined;
  try {
    connection = (await container.attach({ stream: true, stdout: true, stderr: true, hijack: true })) as Duplex;
    // Its failures are seen by whoever reads.
    connection.on('error', () => {});
    const exit = await awaitExit(docker, container);
    await container.start();
    return { connection, exit };
  } catch (error) {
    connection?.destroy();
    throw dockerError(`cannot start a container from ${image}`, error);
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

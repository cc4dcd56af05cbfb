import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type Docker from 'dockerode';
import { HpcsError, messageOf } from '../errors.ts';
import { dockerError, engineStatus } from '../image/docker.ts';
import { readFrames } from './frames.ts';
import { tarOf, type SmallTarEntry } from '../pack/tar.ts';
import { engineName } from './names.ts';

/** What ended: exit code and both outputs as text. */
export interface Finished {
  code: number;
  stdout: string;
  stderr: string;
}

/** Something in the sandbox does not do what it should. */
export function sandboxFailed(what: string): HpcsError {
  return new HpcsError('local', 'sandbox-failed', what, {
    suggestion: 'run hpcs sandbox up again; if that does not help, hpcs sandbox down first, which loses what is in it',
  });
}

/**
 * Runs a program in a running container.
 *
 * @param limit milliseconds after which it is given up
 * @throws HpcsError `local`
 */
export async function execute(
  container: Docker.Container,
  command: readonly string[],
  options: { user?: string; input?: string; limit?: number; signal?: AbortSignal | undefined } = {},
): Promise<Finished> {
  const limit = AbortSignal.timeout(options.limit ?? 30_000);
  const signal = options.signal === undefined ? limit : AbortSignal.any([options.signal, limit]);
  try {
    const exec = await container.exec({
      Cmd: [...command],
      AttachStdin: options.input !== undefined,
      AttachStdout: true,
      AttachStderr: true,
      ...(options.user === undefined ? {} : { User: options.user }),
    });
    const stream = await exec.start({ hijack: true, stdin: options.input !== undefined });
    const stop = (): void => void stream.destroy(signal.reason as Error);
    signal.addEventListener('abort', stop, { once: true });
    try {
      if (options.input !== undefined) stream.end(options.input);
      const output = { stdout: '', stderr: '' };
      for (const { stream: name, bytes } of await Array.fromAsync(readFrames(stream)))
        output[name] += Buffer.from(bytes).toString('utf8');
      const { ExitCode } = await exec.inspect();
      return { code: ExitCode ?? -1, ...output };
    } finally {
      signal.removeEventListener('abort', stop);
      stream.destroy();
    }
  } catch (error) {
    options.signal?.throwIfAborted();
    throw dockerError(`cannot run ${command[0]} in a container`, error);
  }
}

/** Runs a program in a container that must succeed. @returns its standard output */
export async function must(
  container: Docker.Container,
  command: readonly string[],
  options: Parameters<typeof execute>[2] = {},
): Promise<string> {
  const { code, stdout, stderr } = await execute(container, command, options);
  if (code === 0) return stdout;
  throw sandboxFailed(`${command[0]} failed with ${code}: ${lastLines(stderr || stdout, 3)}`);
}

/** Puts files into a container, running or not, below `/`. Directories come into being. */
export async function putFiles(container: Docker.Container, files: readonly SmallTarEntry[]): Promise<void> {
  try {
    await container.putArchive(Buffer.from(tarOf(files)), { path: '/' });
  } catch (error) {
    throw dockerError('cannot copy files into a container', error);
  }
}

/** The last lines that a container wrote. */
export async function lastLog(container: Docker.Container, lines = 12): Promise<string> {
  try {
    const log = await container.logs({ follow: false, stdout: true, stderr: true, tail: lines });
    const parts = await Array.fromAsync(readFrames(once(log)));
    return Buffer.concat(parts.map(({ bytes }) => bytes))
      .toString('utf8')
      .trim();
  } catch {
    return '';
  }
}

/** Removes a container, its anonymous volumes, and whatever runs in it. None of that name is fine. */
export async function removeContainer(docker: Docker, name: string): Promise<void> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      await docker.getContainer(name).remove({ force: true, v: true });
      return;
    } catch (error) {
      const status = engineStatus(error);
      if (status === 404) return;
      // 409: another removal is under way; 500: the engine lost a race with a mount that is still busy.
      if ((status !== 409 && status !== 500) || attempt === 20) throw dockerError(`cannot remove the container ${name}`, error);
      await sleep(250);
    }
  }
}

async function* once<Item>(item: Item): AsyncGenerator<Item> {
  yield item;
}

/** The last `count` lines of a text, joined for one message. */
export function lastLines(text: string, count: number): string {
  return text.trim().split('\n').slice(-count).join(' | ').trim();
}

/** How one container of the sandbox is made. */
export interface ContainerPlan {
  /** Host name in the sandbox's network. */
  name: string;
  image: string;
  /** Default: the image's own. */
  entrypoint?: string[];
  command?: string[];
  user?: string;
  environment?: Record<string, string>;
  hostname?: string;
  /** Files put in before it starts: nothing of this machine is mounted, so that a remote engine works too. */
  files?: SmallTarEntry[];
  /** Volumes by mount point, as they are called in the default sandbox. */
  volumes?: Record<string, string>;
  /** Ports published on 127.0.0.1, each under a free number that it keeps. */
  ports?: number[];
  /** The part whose process ids it shares. */
  processesOf?: string;
  host?: Docker.HostConfig;
}

/** Ports are published under numbers from here, below those that Linux gives to connections. */
const firstPort = 20_000;
const lastPort = 32_000;

/**
 * Makes and starts a container of the sandbox `name`. Its ports are published under numbers that it keeps when it is started again or
 * loses its network: where the engine chooses, they are others each time.
 */
export async function startPart(
  docker: Docker,
  name: string,
  labels: Record<string, string>,
  plan: ContainerPlan,
): Promise<Docker.Container> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const container = await createPart(docker, name, labels, plan);
      await container.start();
      return container;
    } catch (error) {
      const taken = /port is already allocated|address already in use/.test(messageOf(error));
      if (!taken || attempt === 10) throw dockerError(`cannot start the container ${plan.name}`, error);
      await removeContainer(docker, engineName(name, plan.name));
    }
  }
}

async function createPart(
  docker: Docker,
  name: string,
  labels: Record<string, string>,
  plan: ContainerPlan,
): Promise<Docker.Container> {
  const ports = (plan.ports ?? []).map((port) => `${port}/tcp`);
  const container = await docker.createContainer({
    name: engineName(name, plan.name),
    Image: plan.image,
    ...(plan.entrypoint === undefined ? {} : { Entrypoint: plan.entrypoint }),
    Cmd: plan.command ?? [],
    User: plan.user ?? '0:0',
    Env: Object.entries(plan.environment ?? {}).map(([name, value]) => `${name}=${value}`),
    Labels: labels,
    ExposedPorts: Object.fromEntries(ports.map((port) => [port, {}])),
    ...(plan.hostname === undefined ? {} : { Hostname: plan.hostname }),
    HostConfig: {
      NetworkMode: name,
      ...(plan.processesOf === undefined ? {} : { PidMode: `container:${engineName(name, plan.processesOf)}` }),
      Init: true,
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges'],
      LogConfig: { Type: 'json-file', Config: { 'max-size': '10m' } },
      PortBindings: Object.fromEntries(
        ports.map((port) => [port, [{ HostIp: '127.0.0.1', HostPort: `${randomInt(firstPort, lastPort)}` }]]),
      ),
      Mounts: Object.entries(plan.volumes ?? {}).map(([Target, Source]) => ({
        Type: 'volume',
        Source: engineName(name, Source),
        Target,
      })),
      ...plan.host,
    },
    NetworkingConfig: { EndpointsConfig: { [name]: { Aliases: [plan.name] } } },
  });
  if (plan.files !== undefined) await putFiles(container, plan.files);
  return container;
}

/** The number on 127.0.0.1 under which a port of a container is published. */
export async function publishedPort(container: Docker.Container, port: number): Promise<number> {
  const { NetworkSettings } = await container.inspect();
  const published = Number(NetworkSettings.Ports[`${port}/tcp`]?.[0]?.HostPort);
  if (published > 0) return published;
  throw sandboxFailed(`port ${port} of a container is not published`);
}

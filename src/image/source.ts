import type Docker from 'dockerode';
import { HpcsError } from '../errors.ts';
import { linesOf } from '../lines.ts';
import type { ImageConfig } from '../record.ts';
import { authConfig, dockerHub, findCredentials, registryOf } from './credentials.ts';
import { dockerError, engineMessage, engineStatus } from './docker.ts';
import { readDockerConfig } from './docker-config.ts';
import { sifKnows } from './sif-header.ts';

/** When an image is fetched from its registry. */
export const pullPolicies = ['always', 'missing', 'never'] as const;
export type PullPolicy = (typeof pullPolicies)[number];

/** Which image, and how to get it. */
export interface SourceOptions {
  /** As `docker run` takes it: name, name:tag, name@digest or an image id. */
  readonly image: string;
  readonly pull: PullPolicy;
  /** `os/architecture[/variant]`. */
  readonly platform: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly signal?: AbortSignal | undefined;
  readonly progress: (message: string) => void;
}

/** An image that is on the engine and can be run. */
export interface SourceImage {
  /** Id on the engine, which no later pull or tag can change. */
  readonly id: string;
  /** One of its names, with registry and tag. Undefined for an image that has only an id or a digest. */
  readonly name: string | undefined;
  /** Bytes of its file system, as the engine counts them. */
  readonly size: number;
  readonly config: ImageConfig;
  readonly labels: Readonly<Record<string, string>>;
}

/** The parts of an image's name. */
export interface ImageReference {
  readonly repository: string;
  readonly tag: string | undefined;
  readonly digest: string | undefined;
}

/**
 * Finds the image on the engine, or has the engine pull it, and checks that it can become a SIF.
 *
 * @throws HpcsError `local` when it cannot be had, is for another platform, or says nothing of what to run; `usage` for a name or
 *   platform of unknown form
 */
export async function resolveSource(docker: Docker, options: SourceOptions): Promise<SourceImage> {
  const platform = parsePlatform(options.platform);
  if (!isId(options.image)) parseReference(options.image);
  let found = await inspect(docker, options.image);
  const fits = (): boolean => found !== undefined && matches(found, platform);
  if (options.pull === 'always' || (options.pull === 'missing' && !fits())) {
    try {
      await pull(docker, options);
      found = await inspect(docker, options.image);
    } catch (error) {
      if (options.pull === 'missing' && found !== undefined && !options.signal?.aborted)
        throw otherPlatform(options, found, error);
      throw error;
    }
  }
  if (found === undefined) throw notFound(options.image, 'it is not on the engine', 'pull it, or use --pull missing');
  if (!fits()) throw otherPlatform(options, found);
  return describe(options.image, found);
}

/**
 * Splits an image's name. Without tag and digest the tag is `latest`: the engine would pull every tag there is.
 *
 * @throws HpcsError `usage`
 * @see Docker distribution reference, grammar
 */
export function parseReference(image: string): ImageReference {
  const host = /(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::\d+)?\//;
  const path = /[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:\/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*/;
  const whole = new RegExp(`^((?:${host.source})?${path.source})(?::(\\w[\\w.-]{0,127}))?(?:@([a-z0-9+._-]+:[0-9a-f]{32,}))?$`);
  const [, repository, tag, digest] = whole.exec(image) ?? [];
  if (repository === undefined) {
    throw new HpcsError('usage', 'image-name', `not the name of an image: ${image === '' ? 'it is empty' : image}`, {
      suggestion: 'write it as docker run takes it, in lower case, for example debian:bookworm-slim',
    });
  }
  return { repository, tag: tag ?? (digest === undefined ? 'latest' : undefined), digest };
}

interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant: string | undefined;
}

function parsePlatform(platform: string): Platform {
  const [os = '', architecture = '', variant, ...more] = platform.split('/');
  if (os === 'linux' && sifKnows(architecture) && more.length === 0) return { os, architecture, variant };
  throw new HpcsError('usage', 'platform', `not a platform that Apptainer runs: ${platform}`, {
    suggestion: 'use for example --platform linux/amd64 or linux/arm64',
  });
}

function matches(image: Docker.ImageInspectInfo, { os, architecture, variant }: Platform): boolean {
  const { Os, Architecture, Variant } = image as Docker.ImageInspectInfo & { Variant?: string };
  return Os === os && Architecture === architecture && (variant === undefined || !Variant || Variant === variant);
}

async function inspect(docker: Docker, image: string): Promise<Docker.ImageInspectInfo | undefined> {
  try {
    return await docker.getImage(image).inspect();
  } catch (error) {
    if (engineStatus(error) === 404) return undefined;
    throw dockerError(`cannot look up the image ${image}`, error);
  }
}

async function pull(docker: Docker, { image, platform, env, signal, progress }: SourceOptions): Promise<void> {
  const { repository, tag, digest } = parseReference(image);
  const name = digest === undefined ? `${repository}:${tag}` : `${repository}@${digest}`;
  using credentials = disposable(await findCredentials(registryOf(repository), await readDockerConfig(env), { signal }));
  progress(`pulling ${name} for ${platform}`);
  try {
    const options = { fromImage: name, platform, abortSignal: signal };
    const auth = credentials.value === undefined ? {} : authConfig(credentials.value);
    const stream = await docker.createImage(auth, options);
    for await (const event of events(stream)) {
      if (event.error !== undefined) throw new Error(event.error);
      // Layers report every few kilobytes; their ends are enough.
      if (event.status !== undefined && /^(Pull complete|Digest|Status)/.test(event.status))
        progress(event.id === undefined ? event.status : `layer ${event.id}: ${event.status.toLowerCase()}`);
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw pullError(image, platform, error);
  }
}

function disposable<T extends { secret: Disposable }>(value: T | undefined): { value: T | undefined } & Disposable {
  return { value, [Symbol.dispose]: () => value?.secret[Symbol.dispose]() };
}

/** One line of what the engine reports of a pull. */
export interface EngineEvent {
  readonly status?: string;
  readonly id?: string;
  readonly error?: string;
}

/** The JSON lines of a pull. */
export async function* events(stream: AsyncIterable<Uint8Array | string>): AsyncGenerator<EngineEvent> {
  for await (const line of linesOf(stream, { unended: true })) if (line.trim() !== '') yield JSON.parse(line) as EngineEvent;
}

function describe(image: string, found: Docker.ImageInspectInfo): SourceImage {
  const { Entrypoint, Cmd, Env, WorkingDir, User, Labels } = found.Config;
  const entrypoint = Entrypoint === undefined || Entrypoint === null ? [] : [Entrypoint].flat();
  const cmd = Cmd ?? [];
  if (entrypoint.length === 0 && cmd.length === 0) {
    throw new HpcsError('local', 'image-without-command', `the image ${image} names neither an entrypoint nor a command to run`, {
      suggestion: 'add ENTRYPOINT or CMD: one line in a Dockerfile that begins FROM this image',
    });
  }
  const { repository } = isId(image) ? { repository: undefined } : parseReference(image);
  const digests = (found.RepoDigests ?? []).map((digest) => digest.split('@'));
  const digest = digests.find(([name]) => name === repository || familiar(name) === familiar(repository))?.[1] ?? found.Id;
  const variant = (found as { Variant?: string }).Variant;
  return {
    id: found.Id,
    name: found.RepoTags?.filter((name) => !name.startsWith('<none>')).map(wholeName)[0],
    size: found.Size,
    labels: Labels ?? {},
    config: {
      entrypoint,
      cmd,
      env: Env ?? [],
      workdir: WorkingDir ?? '',
      user: User ?? '',
      digest,
      platform: `${found.Os}/${found.Architecture}${variant ? `/${variant}` : ''}`,
    },
  };
}

/** A name as the engine lists it, with its registry and that one's directory. @see Docker distribution reference, "familiar names" */
export function wholeName(name: string): string {
  const { repository } = parseReference(name);
  if (registryOf(repository) !== dockerHub) return name;
  const path = familiar(repository) ?? repository;
  return `docker.io/${path.includes('/') ? '' : 'library/'}${path}${name.slice(repository.length)}`;
}

function isId(image: string): boolean {
  return /^(sha256:)?[0-9a-f]{12,64}$/.test(image);
}

function familiar(repository: string | undefined): string | undefined {
  return repository?.replace(/^(index\.)?docker\.io\//, '').replace(/^library\//, '');
}

function notFound(image: string, what: string, suggestion: string, cause?: unknown): HpcsError {
  return new HpcsError('local', 'image-not-found', `there is no image ${image}: ${what}`, { suggestion, cause });
}

function otherPlatform(options: SourceOptions, found: Docker.ImageInspectInfo, cause?: unknown): HpcsError {
  const has = `${found.Os}/${found.Architecture}`;
  const pulled = cause === undefined ? '' : ` (a pull failed: ${engineMessage(cause)})`;
  return new HpcsError(
    'local',
    'image-platform',
    `the image ${options.image} is for ${has}, not for ${options.platform}${pulled}`,
    {
      cause,
      suggestion: `build it for ${options.platform}, or name the site's platform with --platform`,
    },
  );
}

function pullError(image: string, platform: string, error: unknown): HpcsError {
  if (error instanceof HpcsError) return error;
  const message = engineMessage(error);
  if (/no matching manifest|does not match the specified platform/i.test(message)) {
    return new HpcsError('local', 'image-platform', `the image ${image} does not exist for ${platform}`, {
      cause: error,
      suggestion: 'name a platform it exists for with --platform',
    });
  }
  if (/denied|unauthorized|authentication required|no basic auth/i.test(message)) {
    return new HpcsError('local', 'image-denied', `the registry gives no access to ${image}: ${message}`, {
      cause: error,
      suggestion: `check the name, and log in with 'docker login'`,
    });
  }
  if (/not found|manifest unknown|does not exist|name unknown/i.test(message))
    return notFound(image, message, 'check name and tag', error);
  return new HpcsError('local', 'image-pull', `cannot pull ${image}: ${message}`, {
    cause: error,
    suggestion: 'check that the registry can be reached, or use --pull never for an image that is on the engine',
  });
}

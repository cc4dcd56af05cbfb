import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import type Docker from 'dockerode';
import { HpcsError, systemCode } from '../errors.ts';
import { tarOf } from '../pack/tar.ts';
import { dockerError, engineMessage, engineStatus } from './docker.ts';
import { readDockerConfig } from './docker-config.ts';
import { events, resolveSource } from './source.ts';

/** How to come by the image in which SIFs are made. */
export interface BuildEnvironmentOptions {
  /** Key `build-image` of the configuration: an image that holds `tar2sqfs`, pulled where it is missing. */
  readonly configured?: string | undefined;
  readonly env?: NodeJS.ProcessEnv;
  readonly signal?: AbortSignal | undefined;
  readonly progress: (message: string) => void;
}

/**
 * Makes sure that the build environment is on the engine: the configured image, or one built from the packaged Dockerfile. Its
 * tag holds the Dockerfile's digest, so that a new version never runs in an old environment.
 *
 * @returns the image's id
 * @throws HpcsError `local`
 */
export async function ensureBuildEnvironment(docker: Docker, options: BuildEnvironmentOptions): Promise<string> {
  const { configured, env, signal, progress } = options;
  if (configured !== undefined) {
    const platform = await enginePlatform(docker);
    const source = { image: configured, pull: 'missing', platform, signal, progress } as const;
    return (await resolveSource(docker, env === undefined ? source : { ...source, env })).id;
  }
  const dockerfile = await packagedDockerfile();
  const tag = `hpcs/build-env:${createHash('sha256').update(dockerfile).digest('hex').slice(0, 12)}`;
  const present = await imageId(docker, tag);
  if (present !== undefined) return present;
  progress('making the build environment (once)');
  await build(docker, dockerfile, tag, options);
  const made = await imageId(docker, tag);
  if (made !== undefined) return made;
  throw new HpcsError('local', 'build-environment', 'the build environment was made but is not on the engine', {
    suggestion: 'try again; something else may remove images',
  });
}

async function enginePlatform(docker: Docker): Promise<string> {
  try {
    const { Os, Arch } = await docker.version();
    return `${Os}/${Arch}`;
  } catch (error) {
    throw dockerError('cannot ask the engine for its platform', error);
  }
}

async function imageId(docker: Docker, image: string): Promise<string | undefined> {
  try {
    return (await docker.getImage(image).inspect()).Id;
  } catch (error) {
    if (engineStatus(error) === 404) return undefined;
    throw dockerError(`cannot look up the image ${image}`, error);
  }
}

// From source it lies two directories up, from a build three.
async function packagedDockerfile(): Promise<string> {
  for (const up of ['../..', '../../..']) {
    try {
      return await readFile(new URL(`${up}/docker/build-env/Dockerfile`, import.meta.url), 'utf8');
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error;
    }
  }
  throw new HpcsError('bug', 'package-incomplete', 'the package lacks docker/build-env/Dockerfile');
}

async function build(docker: Docker, dockerfile: string, tag: string, options: BuildEnvironmentOptions): Promise<void> {
  const { env, signal, progress } = options;
  const context = tarOf([{ name: 'Dockerfile', content: dockerfile }]);
  const said: string[] = [];
  try {
    const stream = await docker.buildImage(Readable.from([context]), {
      t: tag,
      rm: true,
      forcerm: true,
      buildargs: await proxyArguments(env),
      ...(signal === undefined ? {} : { abortSignal: signal }),
    });
    for await (const { stream: line, error } of events(stream)) {
      if (line !== undefined) said.push(line.trim());
      if (line !== undefined && line.startsWith('Step ')) progress(line.trim());
      if (error !== undefined) throw new Error([...said.filter(Boolean).slice(-3), error].join('\n'));
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw new HpcsError('local', 'build-environment', `cannot make the build environment: ${engineMessage(error)}`, {
      cause: error,
      suggestion:
        'the engine must reach a Debian mirror once; behind a proxy, set proxies in config.json of the Docker client; or name a ready image as build-image in the configuration',
    });
  }
}

// As the Docker client does; the names are predefined, so that they stay out of the image's history.
async function proxyArguments(env: NodeJS.ProcessEnv | undefined): Promise<Record<string, string>> {
  const proxy = (await readDockerConfig(env)).proxies['default'];
  const pairs = [
    ['HTTP_PROXY', proxy?.httpProxy],
    ['HTTPS_PROXY', proxy?.httpsProxy],
    ['NO_PROXY', proxy?.noProxy],
  ] as const;
  return Object.fromEntries(
    pairs.flatMap(([name, value]) => (value ? [[name, value] as const, [name.toLowerCase(), value] as const] : [])),
  );
}

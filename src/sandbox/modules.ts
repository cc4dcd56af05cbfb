import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HpcsError } from '../errors.ts';

/** The directory of the package, from source and from a build. */
export function packageRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'docker', 'sandbox', 'site.Dockerfile'))) {
    const above = dirname(directory);
    if (above === directory) throw new HpcsError('bug', 'package-incomplete', 'the package lacks docker/sandbox');
    directory = above;
  }
  return directory;
}

/**
 * A module of ours and all of ours that it imports, as absolute paths: what a program made of it depends on.
 *
 * @param start path of its source below the package's root, for example `commands/server.ts`
 */
export async function modulesOf(start: string): Promise<string[]> {
  const built = extname(import.meta.url) === '.js';
  const found = new Set([join(packageRoot(), built ? join('dist', start.replace(/\.ts$/, '.js')) : start)]);
  for (const file of found) {
    const content = await readFile(file, 'utf8');
    for (const [, name = ''] of content.matchAll(/from '(\.{1,2}\/[^']+)'/g)) found.add(join(dirname(file), name));
  }
  return [...found];
}

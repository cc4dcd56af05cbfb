import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { flush, handle, run, settings, type Interfaces } from '@oclif/core';
import { fromLegacy } from './legacy-arguments.ts';

/**
 * Runs the command line of this process.
 *
 * @param entry `import.meta.url` of the file in `bin`, from which the package is found
 * @param options.commands where the command modules lie, when not where package.json says (running from source)
 */
export async function main(entry: string, options: { commands?: string } = {}): Promise<void> {
  // oclif's own transpiler does not know TypeScript 7 and would run a stale build instead.
  settings.enableAutoTranspile = false;
  // Without it oclif looks for an account of this user id, and fails in a container that has none.
  process.env['SHELL'] ??= '/bin/sh';
  const root = fileURLToPath(new URL('..', entry));
  const pjson = JSON.parse(await readFile(`${root}/package.json`, 'utf8')) as Interfaces.PJSON;
  if (options.commands !== undefined) pjson.oclif.commands = { strategy: 'pattern', target: options.commands };
  try {
    await run(fromLegacy(process.argv.slice(2)), { root, pjson });
    await flush();
  } catch (error) {
    await handle(error as Error);
  }
}

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { run, settings, type Interfaces } from '@oclif/core';
import { HpcsError } from './errors.ts';
import { fromLegacy } from './legacy-arguments.ts';
import { asHpcsError, reportError } from './report.ts';
import { outputLost, outputTaken, watchOutput } from './standard-output.ts';

/**
 * Runs the command line of this process.
 *
 * @param entry `import.meta.url` of the file in `bin`, from which the package is found
 * @param options.source whether to run the TypeScript sources rather than the build that package.json names
 */
export async function main(entry: string, options: { source?: boolean } = {}): Promise<void> {
  // oclif's own transpiler does not know TypeScript 7 and would run a stale build instead.
  settings.enableAutoTranspile = false;
  const words = fromLegacy(process.argv.slice(2));
  const argv = words[0] === 'help' ? [...words.slice(1), '--help'] : words;
  const root = fileURLToPath(new URL('..', entry));
  const pjson = JSON.parse(await readFile(`${root}/package.json`, 'utf8')) as Interfaces.PJSON;
  if (options.source === true) {
    const command = commandFile(root, argv);
    pjson.oclif.commands = {
      strategy: 'pattern',
      target: './commands',
      ...(command === undefined ? {} : { globPatterns: [command] }),
    };
    pjson.oclif.helpClass = './src/help.ts';
    pjson.oclif.hooks = { command_not_found: './src/hooks/command-not-found.ts' };
  }
  watchOutput();
  try {
    await run(argv, { root, pjson });
    await outputTaken();
    // What else ended the command is told already.
    if (!process.exitCode) outputLost.throwIfAborted();
  } catch (error) {
    // Who reads no more wants no word of it.
    if (error instanceof HpcsError && error === outputLost.reason && error.code === 'output-closed') return;
    reportError(asHpcsError(error, pjson.oclif.bin ?? 'hpcs'), { json: process.argv.includes('--json') });
  }
}

// oclif imports every command that it knows, to list their flags; a package has a manifest in place of that. Without one, a command
// that is named in full need not wait for the others.
function commandFile(root: string, argv: readonly string[]): string | undefined {
  const [first = '', second = ''] = argv;
  return [`${first}/${second}.ts`, `${first}.ts`].find(
    (file) => /^[a-z][a-z/-]*\.ts$/.test(file) && existsSync(`${root}/commands/${file}`),
  );
}

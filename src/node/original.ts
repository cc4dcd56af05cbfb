import { constants } from 'node:fs';
import { chmod, lstat, mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HpcsError, systemCode } from '../errors.ts';
import type { Bind } from './container.ts';

/**
 * Images that the original prepared. Their entry point is a line of shell: the input logic, the application with its standard
 * streams and exit code in files of `/sd-container/output`, the output logic.
 *
 * The input logic logs in to the vault with a token from its environment and decrypts the data, the output logic encrypts the
 * results: the job does both, outside of the image. Scripts of ours are bound over the two, so that no token enters the container
 * and what the application may read does not depend on the programs that its image brings.
 *
 * @see CSCfi/HPCS, client/container_preparation
 */
const logic = ['input_logic', 'output_logic'] as const;

/** What each of the two does beside: it runs the scripts that lie next to it in the image. One that fails is not overlooked. */
function replacement(name: (typeof logic)[number]): string {
  return `#!/bin/sh
PATH=$PATH:/sd-container/tools/input_logic
export PATH
for script in /sd-container/tools/${name}/*.sh; do
  case $script in */run.sh | */\\*.sh) continue ;; esac
  "$script" || exit 1
done
`;
}

/**
 * Makes the replacements of an original image's logic.
 *
 * @param directory where they lie: made here, in a volume that only this job sees
 * @returns how they are bound into the container
 */
export async function replaceLogic(directory: string): Promise<Bind[]> {
  await mkdir(directory, { mode: 0o700 });
  const binds: Bind[] = [];
  for (const name of logic) {
    const source = join(directory, `${name}.sh`);
    await writeFile(source, replacement(name), { flag: 'wx' });
    await chmod(source, 0o500);
    binds.push({ source, target: `/sd-container/tools/${name}/run.sh`, readOnly: true });
  }
  return binds;
}

/** Arguments as its entry point takes them: it is `sh -c LINE`, whose first one would be the name of the shell. Pure. */
export function originalArguments(args: readonly string[]): string[] {
  return args.length === 0 ? [] : ['--', ...args];
}

/**
 * The application's exit code, as an original image's entry point left it.
 *
 * @param output the plain view of `/sd-container/output`
 * @param entryPoint exit code of the entry point itself, which is that of its output logic
 * @throws HpcsError `job` when the application was not run, or its results are not to be given away
 */
export async function originalExitCode(output: string, entryPoint: number): Promise<number> {
  const [, code] = /^(\d{1,3})\n$/.exec(await textOf(join(output, 'exit_code'))) ?? [];
  if (code === undefined) {
    throw new HpcsError('job', 'image-not-prepared', `the image left no exit code of its application (its own: ${entryPoint})`, {
      suggestion: 'its entry point is not the one that the original HPCS makes: prepare it again',
    });
  }
  // The shell makes this file right before it starts the application.
  if (!(await exists(join(output, 'stdout')))) {
    throw new HpcsError('job', 'input-script-failed', 'an input script in the image failed: the application was not started', {
      suggestion: 'correct the script and prepare the image again; what it printed is withheld',
    });
  }
  if (entryPoint !== 0) {
    throw new HpcsError(
      'job',
      'output-script-failed',
      `an output script in the image failed (exit ${entryPoint}): the result is withheld`,
      { suggestion: 'if it was not meant to fail, correct it and prepare the image again; what it printed is withheld, too' },
    );
  }
  return Number(code);
}

// The application could have put a link or a FIFO in its place, or gigabytes.
async function textOf(path: string): Promise<string> {
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(16) });
    return buffer.toString('latin1', 0, bytesRead);
  } catch (error) {
    if (systemCode(error) !== undefined) return '';
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  return (await lstat(path).catch(() => undefined)) !== undefined;
}

import { createHash } from 'node:crypto';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, posix } from 'node:path';
import { HpcsError, systemCode } from '../errors.ts';
import type { PlannedScripts } from '../job/plan.ts';

/** Where scripts of a kind are bound inside the container, as the original binds them. */
export const scriptTargets = {
  input: '/sd-container/tools/input_logic/jobs',
  output: '/sd-container/tools/output_logic/jobs',
} as const;

/**
 * Copies supplementary scripts out of shared storage and checks the copy: what runs later is what was checked now.
 *
 * @returns the paths, relative to `copy`, of what is to be run, in order of name
 * @throws HpcsError `integrity` `script-altered` naming the script
 */
export async function copyScripts(scripts: PlannedScripts, copy: string): Promise<string[]> {
  await mkdir(copy, { recursive: true, mode: 0o700 });
  for (const file of scripts.files) {
    if (!isBelow(file.path)) throw altered(join(scripts.directory, file.path), 'it lies outside of the directory');
    const source = join(scripts.directory, file.path);
    let content: Buffer;
    try {
      content = await readFile(source);
    } catch (error) {
      throw altered(source, `it cannot be read (${systemCode(error) ?? 'unknown error'})`, error);
    }
    if (createHash('sha256').update(content).digest('hex') !== file.sha256) throw altered(source, 'its content has changed');
    const target = join(copy, file.path);
    await mkdir(dirname(target), { recursive: true, mode: 0o700 });
    await writeFile(target, content, { flag: 'wx' });
    await chmod(target, 0o500);
  }
  return scripts.files
    .map((file) => file.path)
    .filter(isRun)
    .toSorted();
}

/** Which files of a script directory are run; others lie there for them to read. As in the original: `*.sh`. */
export function isRun(path: string): boolean {
  return path.endsWith('.sh');
}

function isBelow(path: string): boolean {
  return (
    path !== '' &&
    !posix.isAbsolute(path) &&
    !path.includes('\0') &&
    path.split('/').every((part) => part !== '' && part !== '.' && part !== '..')
  );
}

function altered(source: string, what: string, cause?: unknown): HpcsError {
  return new HpcsError(
    'integrity',
    'script-altered',
    `the supplementary script ${source} is not the one that was submitted: ${what}`,
    {
      cause,
      suggestion: 'submit the job again if the change was meant',
    },
  );
}

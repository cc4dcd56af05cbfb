import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { chmod, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, posix, relative } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { HpcsError, systemCode } from '../errors.ts';
import type { PinnedScripts, PlannedScripts, SealedScripts } from '../job/plan.ts';
import { unpack } from '../pack/unpack.ts';
import { digesting } from '../seal/digest.ts';
import { open } from '../seal/open.ts';
import type { Secret } from '../secret.ts';

/** Where scripts of a kind are bound inside the container, as the original binds them. */
export const scriptTargets = {
  input: '/sd-container/tools/input_logic/jobs',
  output: '/sd-container/tools/output_logic/jobs',
} as const;

/** Name of the one directory in an archive of sealed scripts. */
export const scriptsName = 'scripts';

/**
 * Brings supplementary scripts out of shared storage, pinned or sealed ones, and checks the copy: what runs later is what was
 * checked now.
 *
 * @param copy directory in an encrypted volume; must not exist
 * @param key opens sealed scripts
 * @returns the paths, relative to `copy`, of what is to be run, in order of name
 * @throws HpcsError `integrity` `script-altered`
 */
export async function takeScripts(
  scripts: PlannedScripts | null,
  copy: string,
  key: Secret | null,
  signal: AbortSignal,
): Promise<string[]> {
  if (scripts === null) return [];
  if ('files' in scripts) return copyScripts(scripts, copy);
  if (key !== null) return openScripts(scripts, copy, key, signal);
  throw new HpcsError('integrity', 'vault-record-invalid', "the vault's record of the job holds no key of its sealed scripts");
}

/** As {@link takeScripts}, for scripts that lie on the site in plain. */
export async function copyScripts(scripts: PinnedScripts, copy: string): Promise<string[]> {
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

/** As {@link takeScripts}, for a sealed archive. It is opened only when all of it is the one that was submitted, and then removed. */
async function openScripts(scripts: SealedScripts, copy: string, key: Secret, signal: AbortSignal): Promise<string[]> {
  const { sealed, sha512 } = scripts;
  const archive = `${copy}.sealed`;
  let found: string;
  try {
    const copied = digesting(createReadStream(sealed));
    await pipeline(copied.bytes, createWriteStream(archive, { flags: 'wx', mode: 0o600 }), { signal });
    found = (await copied.summary).sha512;
  } catch (error) {
    signal.throwIfAborted();
    throw altered(sealed, `it cannot be read (${systemCode(error) ?? 'unknown error'})`, error);
  }
  if (found !== sha512) throw altered(sealed, 'its content has changed');
  const unpacked = `${copy}.unpacked`;
  await unpack(open(createReadStream(archive), key, { signal }), unpacked, { signal });
  await rename(join(unpacked, scriptsName), copy);
  for (const rest of [archive, unpacked]) await rm(rest, { recursive: true });
  // Nobody else needs it; what cannot be removed is ciphertext.
  await rm(sealed, { force: true }).catch(() => undefined);
  const files: string[] = [];
  for (const entry of await readdir(copy, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (!(await stat(path)).isFile()) continue;
    await chmod(path, 0o500);
    files.push(relative(copy, path));
  }
  return files.filter(isRun).toSorted();
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

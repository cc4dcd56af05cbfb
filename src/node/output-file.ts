import { randomBytes } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { systemCode } from '../errors.ts';

/**
 * Opens a new file in the output for writing. What runs in the container writes there too: where it has taken the name, with a file or
 * with a link to one of the node, that stays as it is, and the new one gets `.hpcs` after its name, and more where that is taken too.
 */
export async function openOutputFile(directory: string, name: string): Promise<FileHandle> {
  for (const suffix of ['', '.hpcs']) {
    try {
      return await openNew(join(directory, `${name}${suffix}`));
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error;
    }
  }
  return openNew(join(directory, `${name}.hpcs.${randomBytes(8).toString('hex')}`));
}

/** As {@link openOutputFile}, and writes what it holds. */
export async function writeOutputFile(directory: string, name: string, text: string): Promise<void> {
  await using file = await openOutputFile(directory, name);
  await file.writeFile(text);
}

// Exclusive: a link is never followed, wherever it leads.
const openNew = (path: string): Promise<FileHandle> => open(path, 'wx', 0o600);

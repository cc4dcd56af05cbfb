import { readdir, rm, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';

/** What holds the names of what is not in the results, one JSON string a line, beside what is. */
export const leftOutFile = 'left_out';

/**
 * Removes what an archive cannot hold and what holds no content: sockets, FIFOs and devices that an application left behind. One of
 * them must not cost the results. What was removed is named in {@link leftOutFile}, in the directory itself: names are content.
 *
 * @returns how many there were
 */
export async function leaveOutSpecialFiles(directory: string): Promise<number> {
  const found: string[] = [];
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() || entry.isDirectory() || entry.isSymbolicLink()) continue;
    const path = join(entry.parentPath, entry.name);
    await rm(path);
    found.push(relative(directory, path));
  }
  if (found.length > 0) {
    const text = found.map((name) => `${JSON.stringify(name)}\n`).join('');
    // The application may have written one of that name: then it stays, and the names go beside it.
    await writeFile(join(directory, leftOutFile), text, { flag: 'ax', mode: 0o600 }).catch(() =>
      writeFile(join(directory, `${leftOutFile}.hpcs`), text, { mode: 0o600 }),
    );
  }
  return found.length;
}

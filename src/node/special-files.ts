import { lstat, rm } from 'node:fs/promises';
import { childrenOf } from '../pack/pack.ts';
import { fsPath } from '../pack/name.ts';
import { writeOutputFile } from './output-file.ts';

/** What holds the names of what is not in the results, one JSON string a line, beside what is. */
const leftOutFile = 'left_out';

/**
 * Removes what an archive cannot hold and what holds no content: sockets, FIFOs and devices that an application left behind. One of
 * them must not cost the results. What was removed is named in {@link leftOutFile}, in the directory itself: names are content. Those
 * whose bytes are not UTF-8 stand there as `nameOf` of pack/name says them.
 *
 * @returns how many there were
 */
export async function leaveOutSpecialFiles(directory: string): Promise<number> {
  const found: string[] = [];
  const open = [directory];
  for (let parent = open.pop(); parent !== undefined; parent = open.pop()) {
    for (const child of childrenOf(parent)) {
      const path = `${parent}/${child}`;
      const stats = await lstat(fsPath(path));
      if (stats.isDirectory()) open.push(path);
      if (stats.isFile() || stats.isDirectory() || stats.isSymbolicLink()) continue;
      await rm(fsPath(path));
      found.push(path.slice(directory.length + 1));
    }
  }
  if (found.length > 0) {
    await writeOutputFile(directory, leftOutFile, found.map((name) => `${JSON.stringify(name)}\n`).join(''));
  }
  return found.length;
}

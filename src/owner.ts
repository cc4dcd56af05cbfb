import type { Stats } from 'node:fs';
import { stat } from 'node:fs/promises';

/**
 * Whether somebody else could have made or could alter what these facts are of: neither the caller's nor root's, or writable by
 * others. Root meets files of any owner in a container's mounts; elsewhere root is not kept from anything by an owner either.
 */
export function isOthers(found: Stats): boolean {
  const own = process.getuid?.() ?? 0;
  return (found.mode & 0o022) !== 0 || (own !== 0 && found.uid !== own && found.uid !== 0);
}

/** The same for a path; false for one that is not there. */
export async function isOthersPath(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined && isOthers(found);
}

import { createCipheriv, createHash } from 'node:crypto';
import { chmod, lstat, mkdir, open, readdir, readFile, readlink, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** One thing in a directory tree; names are those of its path, with `/` between. */
export type PlainEntry =
  | { kind: 'directory'; mode: number }
  | { kind: 'file'; mode: number; size: number; sha256: string }
  | { kind: 'link'; target: string };

/** Bytes that look random and are the same every time. */
export function pattern(size: number, seed: string): Buffer {
  const key = createHash('sha256').update(seed).digest();
  return createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(size));
}

const fileSizes = [0, 1, 15, 4095, 4096, 4097, 8192];
const names = {
  'short.txt': 'a',
  '-rf': 'a leading dash',
  'with space ': 'spaces',
  'line\nbreak': 'a line break',
  'quotes\'"$;`': 'shell',
  'Grüße ☃ 日本語': 'unicode',
  // gocryptfs keeps names of up to 175 bytes in the directory and longer ones in files of their own.
  ['b'.repeat(175)]: 'longest short name',
  ['c'.repeat(176)]: 'shortest long name',
  ['d'.repeat(255)]: 'longest name',
  ['日'.repeat(85)]: 'longest name of three-byte characters',
};

/** Writes a tree with everything that a file system of results may hold, but for names that are not UTF-8. */
export async function writePlainTree(root: string): Promise<void> {
  await mkdir(join(root, 'sizes'), { mode: 0o750 });
  for (const size of fileSizes)
    await writeFile(join(root, 'sizes', String(size)), pattern(size, `size ${size}`), { mode: 0o640 });
  await mkdir(join(root, 'names'));
  for (const [name, content] of Object.entries(names)) await writeFile(join(root, 'names', name), content);
  const deep = join(root, ...Array.from({ length: 6 }, (_, i) => `level ${i} ${'x'.repeat(i * 40)}`));
  await mkdir(deep, { recursive: true });
  await writeFile(join(deep, 'bottom'), 'bottom');
  await mkdir(join(root, 'empty directory'));
  await mkdir(join(root, 'links'));
  const links = {
    relative: '../sizes/1',
    absolute: '/etc/passwd',
    dangling: 'nothing/there',
    unicode: 'Grüße ☃',
    long: 'y'.repeat(2000),
  };
  for (const [name, target] of Object.entries(links)) await symlink(target, join(root, 'links', name));
  await symlink('relative', join(root, 'links', 'e'.repeat(200)));
  await writeSparse(join(root, 'sparse start'), 3 * 4096, Buffer.from('after a hole'));
  await writeSparse(join(root, 'sparse end'), 0, Buffer.from('before a hole'), 5 * 4096);
  await writeSparse(join(root, 'sparse ragged'), 4096, Buffer.from('in between'), 3 * 4096 + 77);
  await writeFile(join(root, 'program'), '#!/bin/sh\n', { mode: 0o755 });
  await chmod(join(root, 'program'), 0o755);
  await writeFile(join(root, 'read-only'), 'read-only', { mode: 0o400 });
}

async function writeSparse(path: string, at: number, bytes: Buffer, size = at + bytes.length): Promise<void> {
  await using file = await open(path, 'wx');
  await file.write(bytes, 0, bytes.length, at);
  await file.truncate(size);
}

/** Everything below a directory, by path. */
export async function listTree(root: string): Promise<Record<string, PlainEntry>> {
  const entries: Record<string, PlainEntry> = {};
  const found = await readdir(root, { recursive: true, withFileTypes: true });
  for (const entry of found.toSorted((a, b) => join(a.parentPath, a.name).localeCompare(join(b.parentPath, b.name)))) {
    const path = join(entry.parentPath, entry.name);
    entries[path.slice(root.length + 1)] = await describe(path);
  }
  return entries;
}

async function describe(path: string): Promise<PlainEntry> {
  const stat = await lstat(path);
  if (stat.isSymbolicLink()) return { kind: 'link', target: await readlink(path) };
  const mode = stat.mode & 0o777;
  if (stat.isDirectory()) return { kind: 'directory', mode };
  const content = await readFile(path);
  return { kind: 'file', mode, size: content.length, sha256: createHash('sha256').update(content).digest('hex') };
}

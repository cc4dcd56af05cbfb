import {
  accessSync,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  statSync,
  type Stats,
} from 'node:fs';
import { basename, resolve } from 'node:path';
import { HpcsError, systemCode } from '../errors.ts';
import { BlockWriter, type NextBlock } from '../seal/block-writer.ts';
import { blockSize } from '../seal/bytes.ts';
import { fsPath, nameOf } from './name.ts';
import { fitsOneBlock, tarBlock, tarEnd, tarHeader, tarPadding, type TarEntry } from './tar.ts';

/** How to pack. */
export interface PackOptions {
  /** Name of the top-level entry. Default: the last part of the path. */
  name?: string | undefined;
  /** Ends the archive with its reason. */
  signal?: AbortSignal | undefined;
  /** Size of the blocks that come out, in bytes. Default 1 MiB. */
  blockSize?: number | undefined;
  /** Memory is used again after this many blocks. Default: never. */
  reuseAfter?: number | undefined;
  /** Memory of others for the blocks. Such a block is good until the next one is asked for, whatever `reuseAfter` says. */
  given?: NextBlock | undefined;
}

/** What a directory or file holds. */
export interface Scan {
  /** Files, directories and links, the top-level one included. */
  entries: number;
  /** Bytes of their contents. */
  bytes: number;
  /** Size of the archive that {@link pack} would make now, in bytes. */
  archive: number;
}

const zeros = Buffer.alloc(tarBlock);

/** Milliseconds for which others may have to wait: a connection that is being made meanwhile waits a dozen times. */
const longestTurn = 2;

/** One thing to pack. */
interface Found {
  path: string;
  entry: TarEntry & { type: 'file' | 'hardlink' | 'symlink' | 'directory'; size: number };
  stats: Stats;
}

/**
 * Packs a directory or a single file as a tar stream, in blocks of one size but for the last.
 *
 * Symbolic links stay links (but for `path` itself, which is followed), hard links stay hard links, owners are numbers, times
 * are whole seconds (exact for long and non-ASCII names). A socket, FIFO or device is an error: leaving it out would be silent loss.
 *
 * @throws HpcsError `local` (from the iterator), naming the file: `unreadable`, `source-changed` for one that vanished or changed
 * while it was read, `special-file`
 */
export async function* pack(path: string, options: PackOptions = {}): AsyncGenerator<Buffer, void, undefined> {
  // All file access is synchronous: an await for each small file would cost more than reading it.
  for (const block of packBlocks(path, options)) yield block;
}

/** Looks whether there is anything to {@link pack}. @throws HpcsError `local`, `usage` */
export function checkInput(path: string): void {
  rootStats(rootOf(path));
}

/**
 * Looks at everything that {@link pack} would read, without reading file contents.
 *
 * @throws HpcsError `local`, as `pack` does, for the first thing that could not be packed
 */
export async function scan(path: string, options: Pick<PackOptions, 'name' | 'signal'> = {}): Promise<Scan> {
  const sum = { entries: 0, bytes: 0, archive: tarEnd.length };
  let turn = performance.now();
  for (const found of walk(path, options.name)) {
    options.signal?.throwIfAborted();
    const { type, size } = found.entry;
    if (type === 'file' && !isOwnAndReadable(found.stats))
      atFile(found.path, () => accessSync(fsPath(found.path), constants.R_OK));
    sum.entries += 1;
    sum.bytes += size;
    sum.archive += headerSize(found) + size + tarPadding(size);
    // The event loop gets its turns, for signals and connections, however long the file system takes.
    if (performance.now() - turn < longestTurn) continue;
    await new Promise(setImmediate);
    turn = performance.now();
  }
  return sum;
}

const own = process.geteuid?.();

// The owner's bits are all that counts for the owner: asking costs as much as looking.
function isOwnAndReadable({ uid, mode }: Stats): boolean {
  return uid === own && (mode & constants.S_IRUSR) !== 0;
}

function headerSize(found: Found): number {
  return fitsOneBlock(found.entry) ? tarBlock : headerOf(found).length;
}

function* packBlocks(path: string, options: PackOptions): Generator<Buffer, void, undefined> {
  const { name, signal } = options;
  const output = new BlockWriter(options.blockSize ?? blockSize, options.reuseAfter ?? 0, options.given);
  for (const found of walk(path, name)) {
    signal?.throwIfAborted();
    if (found.entry.type === 'file') {
      yield* packFile(found, output, signal);
    } else {
      yield* output.write(headerOf(found));
    }
  }
  yield* output.write(tarEnd);
  yield* output.finish();
}

function* packFile(found: Found, output: BlockWriter, signal?: AbortSignal): Generator<Buffer, void, undefined> {
  const { path, entry, stats } = found;
  const changed = (how: string): HpcsError =>
    new HpcsError('local', 'source-changed', `${shown(path)} ${how} while it was being packed`, {
      suggestion: 'wait until nothing writes there any more, and start again',
    });
  // Not blocking, lest somebody put a FIFO in the file's place.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY;
  const file = atFile(path, () => openSync(fsPath(path), flags));
  try {
    const opened = fstatSync(file);
    if (opened.ino !== stats.ino || opened.dev !== stats.dev) throw changed('was replaced');
    if (opened.size !== stats.size) throw changed(opened.size > stats.size ? 'grew' : 'shrank');
    const header = headerOf(found);
    if (!output.writeWithin(header)) yield* output.write(header);
    for (let left = entry.size; left > 0;) {
      signal?.throwIfAborted();
      const room = output.room(left);
      const size = atFile(path, () => readSync(file, room));
      if (size === 0) throw changed('shrank');
      left -= size;
      const full = output.advance(size);
      if (full !== undefined) yield full;
    }
    const padding = zeros.subarray(0, tarPadding(entry.size));
    if (!output.writeWithin(padding)) yield* output.write(padding);
    const after = fstatSync(file);
    if (after.size !== entry.size) throw changed(after.size > entry.size ? 'grew' : 'shrank');
    if (after.mtimeMs !== opened.mtimeMs) throw changed('changed');
  } finally {
    closeSync(file);
  }
}

/** Everything under a path, parents first, names in order, each hard link but the first as such. */
function* walk(path: string, name: string | undefined): Generator<Found, void, undefined> {
  const root = rootOf(path);
  const top = name ?? basename(root);
  if (top === '')
    throw new HpcsError('usage', 'root-directory', 'the whole file system cannot be packed', {
      suggestion: 'name a directory in it',
    });
  const links = new Map<string, string>();
  // A link given by name is followed: its user means what it leads to.
  const first = describe(root, top, rootStats(root), links);
  yield first;
  // Of the directories on the way down only the names in them are kept.
  const open = first.entry.type === 'directory' ? [{ ...first, children: childrenOf(root) }] : [];
  for (let directory = open.at(-1); directory !== undefined; directory = open.at(-1)) {
    const child = directory.children.pop();
    if (child === undefined) {
      open.pop();
      continue;
    }
    const path = `${directory.path === '/' ? '' : directory.path}/${child}`;
    const stats = atFile(path, () => lstatSync(fsPath(path)));
    const found = describe(path, `${directory.entry.name}/${child}`, stats, links);
    yield found;
    if (found.entry.type === 'directory') open.push({ ...found, children: childrenOf(path) });
  }
}

// An empty path would stand for the working directory, which a variable that is not set in a script does not mean.
function rootOf(path: string): string {
  if (path !== '') return resolve(path);
  throw new HpcsError('usage', 'no-input', 'the path of what is to be packed is empty', {
    suggestion: 'name a directory or a file; . is the working directory',
  });
}

function rootStats(root: string): Stats {
  return atFile(root, () => statSync(root), true);
}

/** The names in a directory, the last one first. @throws HpcsError `local`, as `pack` does */
export function childrenOf(directory: string): string[] {
  const names = atFile(directory, () => readdirSync(fsPath(directory), 'utf8'));
  // What stands for bytes that are not UTF-8 would not lead back to the file.
  if (names.some((name) => name.includes('\ufffd')))
    return atFile(directory, () => readdirSync(fsPath(directory), 'buffer')).map((name) => nameOf(name)).sort().reverse(); // prettier-ignore
  return names.sort().reverse();
}

function describe(path: string, name: string, stats: Stats, links: Map<string, string>): Found {
  const common = { name, mode: stats.mode & 0o7777, uid: stats.uid, gid: stats.gid, mtime: Math.floor(stats.mtimeMs / 1000) };
  if (stats.isDirectory()) return { path, stats, entry: { ...common, type: 'directory', size: 0 } };
  if (stats.isSymbolicLink()) {
    const linkname = nameOf(atFile(path, () => readlinkSync(fsPath(path), 'buffer')));
    return { path, stats, entry: { ...common, type: 'symlink', size: 0, linkname } };
  }
  if (!stats.isFile()) {
    throw new HpcsError('local', 'special-file', `${shown(path)} is a ${kindOf(stats)}, which cannot be packed`, {
      suggestion: 'remove it, or give a directory without it',
    });
  }
  if (stats.nlink > 1) {
    // Inode numbers can exceed what a number holds exactly.
    const { dev, ino } = atFile(path, () => lstatSync(fsPath(path), { bigint: true }));
    const first = links.get(`${dev}:${ino}`);
    if (first !== undefined) return { path, stats, entry: { ...common, type: 'hardlink', size: 0, linkname: first } };
    links.set(`${dev}:${ino}`, name);
  }
  return { path, stats, entry: { ...common, type: 'file', size: stats.size } };
}

/** The header. Where it takes pax records anyway, the exact time is one of them: GNU tar then compares it to the nanosecond. */
function headerOf({ path, entry }: Found): Buffer {
  const header = tarHeader(entry);
  if (header.length === tarBlock) return header;
  const { mtimeNs } = atFile(path, () => lstatSync(fsPath(path), { bigint: true }));
  const [seconds, fraction] = [mtimeNs / 1_000_000_000n, mtimeNs % 1_000_000_000n];
  // Before 1970 the whole seconds must do.
  const mtime = Buffer.from(`${seconds}.${String(fraction).padStart(9, '0')}`);
  return mtimeNs < 0n ? header : tarHeader({ ...entry, pax: new Map([['mtime', mtime]]) });
}

function kindOf(stats: Stats): string {
  if (stats.isFIFO()) return 'FIFO';
  return stats.isSocket() ? 'socket' : 'device';
}

/** Runs a system call on a file and says which file it was that failed. */
function atFile<Result>(path: string, call: () => Result, given = false): Result {
  try {
    return call();
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' && !given) {
      throw new HpcsError('local', 'source-changed', `${shown(path)} vanished while it was being packed`, {
        cause: error,
        suggestion: 'wait until nothing writes there any more, and start again',
      });
    }
    throw new HpcsError('local', 'unreadable', `cannot read ${shown(path)}: ${code ?? 'unknown error'}`, {
      cause: error,
      suggestion: code === 'EACCES' || code === 'EPERM' ? 'make it readable for yourself, or leave it out' : 'check the path',
    });
  }
}

/** A path as it may stand in a message: one line, whatever its name holds. */
function shown(path: string): string {
  return /^[\x20-\x7e\u00a0-\ud7ff\ue000-\uffef]*$/.test(path) ? path : JSON.stringify(path);
}

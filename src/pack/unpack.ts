import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  fchmodSync,
  futimesSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { HpcsError, systemCode } from '../errors.ts';
import { makeDirectories } from '../make-directories.ts';
import type { Bytes } from '../seal/bytes.ts';
import { bytesOf, fsPath } from './name.ts';
import { readTar, type ReadTarEntry } from './tar.ts';

/** How to unpack. */
export interface UnpackOptions {
  /** Stops with its reason; nothing stays. */
  signal?: AbortSignal | undefined;
}

/** What was unpacked. */
export interface Unpacked {
  entries: number;
  /** Bytes of file contents. */
  bytes: number;
}

/** Permissions that are taken over: set-id and sticky bits are not. */
const permissions = 0o777;

/**
 * Unpacks a tar stream into a directory, which is made if it is missing. All or nothing: the entries appear there only when the
 * whole stream has been read without an error.
 *
 * Existing files are never overwritten. Paths that lead out of the directory, devices, FIFOs and writes through a link of the
 * archive are refused; links are made last, and lead where they lead. Owners are not taken over.
 *
 * @throws HpcsError `integrity` for an archive that is damaged or unsafe, `local` `file-exists`, `disk-full`, `write-failed`
 */
export function unpack(input: Bytes, directory: string, options: UnpackOptions = {}): Promise<Unpacked> {
  return unpackEntries(readTar(input), directory, options);
}

/** What is taken over of an entry. */
export type UnpackEntry = Pick<ReadTarEntry, 'name' | 'type' | 'mode' | 'mtime' | 'size' | 'linkname' | 'body'>;

/** As {@link unpack}, for entries that are not, or no longer, those of a tar stream. */
export async function unpackEntries(
  entries: AsyncIterable<UnpackEntry>,
  directory: string,
  options: UnpackOptions = {},
): Promise<Unpacked> {
  using staging = await Staging.make(directory);
  const sum = { entries: 0, bytes: 0 };
  for await (const entry of entries) {
    options.signal?.throwIfAborted();
    const path = safePath(entry.name);
    // The top of an archive of "." itself: the directory is the caller's.
    if (path === '' && entry.type === 'directory') continue;
    await staging.add(path, entry, options.signal);
    sum.entries += 1;
    sum.bytes += entry.size;
  }
  options.signal?.throwIfAborted();
  staging.publish();
  return sum;
}

/** A directory of our own beside the places where the entries will appear. Until then it is 0700, and so is all in it. */
class Staging implements Disposable {
  readonly #target: string;
  readonly #directory: string;
  /** Directories that were made, with what the archive says of them. */
  readonly #directories = new Map<string, { mode: number; mtime: number } | undefined>();
  /** Made last, so that nothing can be written through one. */
  readonly #links = new Map<string, string>();
  readonly #tops = new Set<string>();

  private constructor(target: string, directory: string) {
    this.#target = target;
    this.#directory = directory;
  }

  static async make(target: string): Promise<Staging> {
    const directory = join(target, `.hpcs-unpack-${randomBytes(8).toString('hex')}`);
    try {
      // What is unpacked is confidential: a directory that is made for it is its owner's alone.
      await makeDirectories(directory, 0o700);
    } catch (error) {
      throw writeFailed(target, error);
    }
    return new Staging(target, directory);
  }

  async add(path: string, entry: UnpackEntry, signal: AbortSignal | undefined): Promise<void> {
    if (path === '') throw unsafe(entry.name, 'names no file');
    this.#checkTop(path);
    const slash = path.lastIndexOf('/');
    if (slash >= 0) this.#makeDirectory(path.slice(0, slash), path);
    switch (entry.type) {
      case 'file':
        return await this.#writeFile(path, entry, signal);
      case 'directory':
        this.#makeDirectory(path, path);
        this.#directories.set(path, { mode: entry.mode & permissions, mtime: entry.mtime });
        return;
      case 'symlink':
        if (this.#links.has(path) || this.#directories.has(path) || this.#exists(path)) throw twice(path);
        this.#links.set(path, entry.linkname);
        return;
      case 'hardlink':
        this.#link(path, safePath(entry.linkname));
        return;
      case 'character':
      case 'block':
      case 'fifo':
        throw unsafe(entry.name, `is a ${entry.type === 'fifo' ? 'FIFO' : 'device'}`);
      case 'other':
        throw unsafe(entry.name, 'is of an unknown kind');
      default:
        entry.type satisfies never;
    }
  }

  /** Makes the links, moves everything to where it belongs, and sets the directories' permissions and times. */
  publish(): void {
    for (const [path, linkname] of this.#links) {
      const below = this.#below(path);
      atFile(path, () => symlinkSync(bytesOf(linkname), below));
    }
    for (const top of this.#tops) this.#checkAbsent(top);
    for (const top of this.#tops) atFile(top, () => renameSync(this.#below(top), fsPath(join(this.#target, top))));
    // Children before their parents, which may become such that even their owner cannot enter them.
    for (const [path, { mode, mtime } = { mode: 0o755, mtime: undefined }] of [...this.#directories].reverse()) {
      const place = fsPath(`${this.#target}/${path}`);
      atFile(path, () => {
        if (mtime !== undefined) utimesSync(place, mtime, mtime);
        chmodSync(place, mode);
      });
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }

  async #writeFile(path: string, entry: UnpackEntry, signal: AbortSignal | undefined): Promise<void> {
    if (this.#links.has(path)) throw twice(path);
    // Fails for anything that is already there.
    const file = this.#made(path, () => openSync(this.#below(path), 'wx', 0o600));
    try {
      for await (const piece of entry.body) {
        signal?.throwIfAborted();
        atFile(path, () => {
          for (let written = 0; written < piece.length;) written += writeSync(file, piece, written);
        });
      }
      atFile(path, () => {
        fchmodSync(file, entry.mode & permissions);
        futimesSync(file, entry.mtime, entry.mtime);
      });
    } finally {
      closeSync(file);
    }
  }

  #makeDirectory(path: string, wanted: string): void {
    if (this.#directories.has(path)) return;
    if (this.#links.has(path)) throw unsafe(wanted, 'leads through a link of the archive');
    const slash = path.lastIndexOf('/');
    if (slash >= 0) this.#makeDirectory(path.slice(0, slash), wanted);
    this.#made(path, () => mkdirSync(this.#below(path), { mode: 0o700 }));
    this.#directories.set(path, undefined);
  }

  #link(path: string, target: string): void {
    const linkname = this.#links.get(target);
    if (this.#links.has(path) || this.#exists(path)) throw twice(path);
    if (linkname !== undefined) {
      this.#links.set(path, linkname);
    } else if (target !== '' && this.#exists(target) && !this.#directories.has(target)) {
      atFile(path, () => linkSync(this.#below(target), this.#below(path)));
    } else {
      throw unsafe(path, 'is a link to a file that is not in the archive before it');
    }
  }

  /** Early, so that a long archive is not unpacked in vain. */
  #checkTop(path: string): void {
    const [top = path] = path.split('/', 1);
    if (this.#tops.has(top)) return;
    this.#checkAbsent(top);
    this.#tops.add(top);
  }

  #checkAbsent(top: string): void {
    const place = join(this.#target, top);
    if (lstatSync(fsPath(place), { throwIfNoEntry: false }) === undefined) return;
    throw new HpcsError('local', 'file-exists', `${place} exists already and is not overwritten`, {
      suggestion: 'choose an empty directory, or move it away',
    });
  }

  #exists(path: string): boolean {
    return lstatSync(this.#below(path), { throwIfNoEntry: false }) !== undefined;
  }

  #made<Result>(path: string, make: () => Result): Result {
    try {
      return make();
    } catch (error) {
      if (systemCode(error) === 'EEXIST') throw twice(path);
      throw writeFailed(path, error);
    }
  }

  #below(path: string): string | Buffer {
    return fsPath(`${this.#directory}/${path}`);
  }
}

/** The path of an entry below the directory, with nothing in it that could lead elsewhere. */
function safePath(name: string): string {
  if (name.startsWith('/')) throw unsafe(name, 'has an absolute path');
  if (name.includes('\0')) throw unsafe(name, 'holds a NUL character');
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw unsafe(name, 'leads out of the directory');
  return parts.join('/');
}

function atFile<Result>(path: string, call: () => Result): Result {
  try {
    return call();
  } catch (error) {
    throw writeFailed(path, error);
  }
}

function writeFailed(path: string, error: unknown): HpcsError {
  const code = systemCode(error);
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new HpcsError('local', 'disk-full', `no space left to unpack ${JSON.stringify(path)}`, {
      cause: error,
      suggestion: 'choose a directory with more space',
    });
  }
  return new HpcsError('local', 'write-failed', `cannot write ${JSON.stringify(path)}: ${code ?? 'unknown error'}`, {
    cause: error,
    suggestion: 'choose a directory in which you may write',
  });
}

function unsafe(name: string, why: string, suggestion = 'do not trust whoever made it'): HpcsError {
  return new HpcsError('integrity', 'archive-unsafe', `the archive is not safe to unpack: ${JSON.stringify(name)} ${why}`, {
    suggestion,
  });
}

function twice(path: string): HpcsError {
  return unsafe(path, 'occurs twice', 'have it made anew, with everything in it once');
}

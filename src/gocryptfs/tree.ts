import { totalmem } from 'node:os';
import { posix } from 'node:path';
import { HpcsError } from '../errors.ts';
import { classifyName, decryptName, directoryIvSize, longNameOf } from './names.ts';
import type { VolumeKeys } from './volume.ts';

/** Bytes of memory that what describes a volume may take: a directory takes about half a KiB. */
const mostMemory = (): number => Math.max(256 * 1024 * 1024, totalmem() / 4);
/** What an object in memory takes beside its bytes, about. */
const overhead = 128;

/**
 * The names of a whole volume, from what its directories hold about them. All paths are relative to the volume's root, which is
 * the empty path.
 */
export class VolumeTree {
  readonly #keys: VolumeKeys;
  #memory: number;
  readonly #ivs = new Map<string, Uint8Array>();
  readonly #longNames = new Map<string, Uint8Array>();
  readonly #plain = new Map<string, Buffer>([['', Buffer.alloc(0)]]);

  /** @param memory bytes that it may take, about: whoever sends a volume must not be able to fill ours */
  constructor(keys: VolumeKeys, memory = mostMemory()) {
    this.#keys = keys;
    this.#memory = memory;
  }

  /** Counts what is kept of the volume. @throws HpcsError `local` `volume-too-large` */
  keep(path: string, bytes = 0): void {
    this.#memory -= 2 * path.length + bytes + overhead;
    if (this.#memory >= 0) return;
    throw new HpcsError('local', 'volume-too-large', 'the encrypted volume has more names than fit into memory here', {
      suggestion: 'open it on a machine with more memory; if the job cannot have made as many, the site did',
    });
  }

  /** Takes the content of a directory's `gocryptfs.diriv`. One of another length counts as none. @throws HpcsError as {@link keep} does */
  addDirectoryIv(directory: string, iv: Uint8Array): void {
    if (iv.length !== directoryIvSize) return;
    this.keep(directory, iv.length);
    this.#ivs.set(directory, iv);
  }

  /** Takes the content of a `.name` file. @throws HpcsError as {@link keep} does */
  addLongName(path: string, content: Uint8Array): void {
    this.keep(path, content.length);
    this.#longNames.set(path, content);
  }

  /**
   * The plain path of an encrypted one.
   *
   * @returns bytes, components separated by `/`; none of them is empty, `.` or `..`
   * @throws HpcsError `integrity` `name-unreadable` when a name was altered, or what is needed to read it is missing
   */
  resolve(path: string): Buffer {
    const known = this.#plain.get(path);
    if (known !== undefined) return known;
    const slash = path.lastIndexOf('/');
    const directory = slash < 0 ? '' : path.slice(0, slash);
    const parent = this.resolve(directory);
    const name = this.#name(directory, path.slice(slash + 1));
    return parent.length === 0 ? name : Buffer.concat([parent, Buffer.from('/'), name]);
  }

  /** As {@link resolve}, remembered for what lies below. @throws HpcsError also as {@link keep} does */
  resolveDirectory(path: string): Buffer {
    const plain = this.resolve(path);
    this.keep('', plain.length);
    this.#plain.set(path, plain);
    return plain;
  }

  #name(directory: string, name: string): Buffer {
    const iv = this.#ivs.get(directory);
    if (iv === undefined) throw incomplete(posix.join(directory, name), 'its directory has no IV');
    const entry = classifyName(name);
    if (entry.kind !== 'long-name') return decryptName(this.#keys, iv, name);
    const stored = this.#longNames.get(posix.join(directory, entry.nameFile));
    if (stored === undefined) throw incomplete(posix.join(directory, name), 'its long name is missing');
    return decryptName(this.#keys, iv, longNameOf(entry.nameFile, stored));
  }
}

function incomplete(path: string, why: string): HpcsError {
  return new HpcsError('integrity', 'name-unreadable', `the name of ${path} in the encrypted volume cannot be read: ${why}`);
}

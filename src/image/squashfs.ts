/**
 * SquashFS 4.0: everything but the blocks of files, which stand between the superblock and the tables.
 *
 * @see Linux, Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h
 */
import { constants, deflateSync, zstdCompressSync } from 'node:zlib';
import { HpcsError } from '../errors.ts';
import { bytesOf } from '../pack/name.ts';
import type { Attributes, DirectoryNode, TreeNode } from './tree.ts';

/** SquashFS compressions: zstd needs Linux 4.14 or a squashfuse with zstd on the site, gzip runs everywhere. */
export const sifCompressions = ['zstd', 'gzip'] as const;
export type SifCompression = (typeof sifCompressions)[number];

/** Bytes of the superblock, behind which the blocks of files begin. */
export const superblockSize = 96;

/** Bytes of a file that are compressed as one: twice the usual, for speed and for size. */
export const fileBlockSize = 256 * 1024;

/** In the word that stands for a block: it is not compressed. */
export const storedBit = 0x100_0000;

const compressors: Readonly<Record<SifCompression, number>> = { zstd: 6, gzip: 1 };

/** Compresses one block by the fastest level of zstd, or by gzip's usual one. Returns it as it is where that makes it no smaller. */
export function squeeze(block: Uint8Array, compression: SifCompression): Uint8Array {
  const chunkSize = block.length + 4096;
  const smaller =
    compression === 'zstd'
      ? zstdCompressSync(block, { params: { [constants.ZSTD_c_compressionLevel]: 1 }, chunkSize })
      : deflateSync(block, { level: 6, chunkSize });
  return smaller.length < block.length ? smaller : block;
}

/** Where the content of a file lies. */
export interface FilePlace {
  readonly size: number;
  /** Position of its first block in the file system. */
  readonly start: number;
  /** One for each block: its size, with {@link storedBit}; 0 for one of zeros, which is nowhere. */
  readonly blocks: readonly number[];
  /** Where a small file lies among others in one block: which, and how many bytes into it. */
  readonly fragment: { readonly index: number; readonly offset: number } | undefined;
}

/** A block in which small files lie. */
export interface FragmentPlace {
  readonly start: number;
  /** Its size, with {@link storedBit}. */
  readonly word: number;
}

/** What the tables are made of. */
export interface SquashfsOptions<Content> {
  readonly root: DirectoryNode<Content>;
  readonly place: (content: Content) => FilePlace;
  readonly fragments: readonly FragmentPlace[];
  /** Where the blocks of files end. */
  readonly dataEnd: number;
  readonly compression: SifCompression;
  /** Time of the making, in seconds since 1970. */
  readonly created: number;
}

const metadataSize = 8192;
const nothing = 0xffff_ffff;
const nowhere = 0xffff_ffff_ffff_ffffn;
/** Where inodes say how they are kept: the first form is shorter and lacks some fields. */
const inodeTypes = { directory: 1, file: 2, symlink: 3, block: 4, character: 5, fifo: 6 } as const;
const extended = 7;
const xattrKinds = new Map([
  ['user', 0],
  ['trusted', 1],
  ['security', 2],
]);

/**
 * Makes the two parts of a file system that surround the blocks of its files.
 *
 * @returns the superblock, and what follows the blocks, padded to 4096 bytes in all. Device nodes get number 0.
 * @throws HpcsError `local` for more owners than the format can hold
 */
export function squashfsTables<Content>(options: SquashfsOptions<Content>): { superblock: Buffer; tables: Buffer } {
  const { root, fragments, dataEnd, compression, created } = options;
  const writer = new TreeWriter(options);
  const rootPlace = writer.write(root);
  const parts: Buffer[] = [];
  let position = dataEnd;
  const append = (bytes: Buffer): number => {
    const start = position;
    parts.push(bytes);
    position += bytes.length;
    return start;
  };
  /** A table in metadata blocks and, behind them, their positions. @returns where these stand */
  const appendTable = (content: Buffer, head: (start: number) => Buffer = () => Buffer.alloc(0)): number => {
    const table = new Metadata(compression);
    table.write(content);
    const start = append(table.finish());
    const index = Buffer.alloc(8 * table.starts.length);
    for (const [at, offset] of table.starts.entries()) index.writeBigUInt64LE(BigInt(start + offset), 8 * at);
    return append(Buffer.concat([head(start), index]));
  };

  const inodeTable = append(writer.inodes.finish());
  const directoryTable = append(writer.directories.finish());
  const fragmentTable =
    fragments.length === 0
      ? nowhere
      : appendTable(Buffer.concat(fragments.map(({ start, word }) => fields([[8, start], [4, word], [4, 0]])))); // prettier-ignore
  const ids = [...writer.ids.keys()];
  const idTable = appendTable(Buffer.concat(ids.map((id) => fields([[4, id]]))));
  let xattrTable: number | bigint = nowhere;
  if (writer.xattrs.sets.length > 0) {
    const pairs = append(writer.xattrs.pairs.finish());
    xattrTable = appendTable(Buffer.concat(writer.xattrs.sets), () =>
      fields([[8, pairs], [4, writer.xattrs.sets.length], [4, 0]])); // prettier-ignore
  }

  const superblock = fields([
    [4, 0x7371_7368],
    [4, writer.count],
    [4, created],
    [4, fileBlockSize],
    [4, fragments.length],
    [2, compressors[compression]],
    [2, Math.log2(fileBlockSize)],
    // No inode is looked up by its number: nothing is exported over NFS.
    [2, (fragments.length === 0 ? 0x10 : 0) | (writer.xattrs.sets.length === 0 ? 0x200 : 0)],
    [2, ids.length],
    [2, 4],
    [2, 0],
    [8, reference(rootPlace)],
    [8, position],
    [8, idTable],
    [8, xattrTable],
    [8, inodeTable],
    [8, directoryTable],
    [8, fragmentTable],
    [8, nowhere],
  ]);
  // Loop devices have whole sectors.
  append(Buffer.alloc(-position & 4095));
  return { superblock, tables: Buffer.concat(parts) };
}

/** A place in a table of metadata: where its block begins, and how many bytes into the block's plain content. */
interface Place {
  readonly block: number;
  readonly offset: number;
}

function reference({ block, offset }: Place): bigint {
  return (BigInt(block) << 16n) | BigInt(offset);
}

/** A table in blocks of 8 KiB, each compressed where that makes it smaller, behind two bytes that tell its size. */
class Metadata {
  /** Where each block begins. */
  readonly starts: number[] = [];
  readonly #compression: SifCompression;
  readonly #blocks: Uint8Array[] = [];
  readonly #pending = Buffer.alloc(metadataSize);
  #used = 0;
  #size = 0;

  constructor(compression: SifCompression) {
    this.#compression = compression;
  }

  /** Where what is written next will stand. */
  get place(): Place {
    return { block: this.#size, offset: this.#used };
  }

  write(bytes: Buffer): void {
    for (let taken = 0; taken < bytes.length;) {
      const part = bytes.copy(this.#pending, this.#used, taken);
      taken += part;
      this.#used += part;
      if (this.#used === metadataSize) this.#flush();
    }
  }

  /** All of it. Nothing is written afterwards. */
  finish(): Buffer {
    if (this.#used > 0) this.#flush();
    return Buffer.concat(this.#blocks);
  }

  #flush(): void {
    const plain = this.#pending.subarray(0, this.#used);
    const small = squeeze(plain, this.#compression);
    const header = fields([[2, small.length | (small === plain ? 0x8000 : 0)]]);
    this.starts.push(this.#size);
    this.#blocks.push(header, Buffer.from(small));
    this.#size += header.length + small.length;
    this.#used = 0;
  }
}

/** Sets of extended attributes, each kept once. */
class Xattrs {
  readonly pairs: Metadata;
  readonly sets: Buffer[] = [];
  readonly #known = new Map<string, number>();

  constructor(compression: SifCompression) {
    this.pairs = new Metadata(compression);
  }

  /** Number of a set; all ones for the empty one. Attributes of other kinds, such as `system.*`, have no place in SquashFS. */
  index(xattrs: Attributes['xattrs']): number {
    const pairs: Buffer[] = [];
    let size = 0;
    for (const [key, value] of [...xattrs].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
      const dot = key.indexOf('.');
      const kind = xattrKinds.get(key.slice(0, dot));
      if (kind === undefined) continue;
      const name = bytesOf(key.slice(dot + 1));
      pairs.push(fields([[2, kind], [2, name.length]]), name, fields([[4, value.length]]), Buffer.from(value)); // prettier-ignore
      size += dot + 1 + name.length + 1 + value.length;
    }
    if (pairs.length === 0) return nothing;
    const bytes = Buffer.concat(pairs);
    const id = bytes.toString('latin1');
    const known = this.#known.get(id);
    if (known !== undefined) return known;
    this.#known.set(id, this.sets.length);
    this.sets.push(fields([[8, reference(this.pairs.place)], [4, pairs.length / 4], [4, size]])); // prettier-ignore
    this.pairs.write(bytes);
    return this.sets.length - 1;
  }
}

/** Writes inodes and directories, children before their parents, since these name their places. */
class TreeWriter<Content> {
  readonly inodes: Metadata;
  readonly directories: Metadata;
  readonly xattrs: Xattrs;
  /** Numbers of users and groups, and the places of them in their table. */
  readonly ids = new Map<number, number>();
  readonly #options: SquashfsOptions<Content>;
  readonly #numbers = new Map<TreeNode<Content>, number>();
  readonly #links = new Map<TreeNode<Content>, number>();
  readonly #places = new Map<TreeNode<Content>, Place>();

  constructor(options: SquashfsOptions<Content>) {
    this.#options = options;
    this.inodes = new Metadata(options.compression);
    this.directories = new Metadata(options.compression);
    this.xattrs = new Xattrs(options.compression);
  }

  /** Inodes in all. */
  get count(): number {
    return this.#numbers.size;
  }

  /** Writes a whole tree. @returns where the root's inode stands */
  write(root: DirectoryNode<Content>): Place {
    this.#number(root);
    return this.#directory(root, this.count + 1);
  }

  #number(node: TreeNode<Content>): void {
    this.#links.set(node, (this.#links.get(node) ?? 0) + 1);
    if (this.#numbers.has(node)) return;
    this.#numbers.set(node, this.#numbers.size + 1);
    if (node.type === 'directory') for (const child of node.children.values()) this.#number(child);
  }

  #numberOf(node: TreeNode<Content>): number {
    return this.#numbers.get(node) ?? 0;
  }

  #directory(node: DirectoryNode<Content>, parent: number): Place {
    const number = this.#numberOf(node);
    const children = [...node.children].map(([name, child]) => ({ name: bytesOf(name), child }));
    const listed = children
      .toSorted((a, b) => Buffer.compare(a.name, b.name))
      .map(({ name, child }) => ({ name, child, place: this.#place(child, number) }));
    const start = this.directories.place;
    const size = this.#list(listed);
    const links = 2 + children.filter(({ child }) => child.type === 'directory').length;
    const xattr = this.xattrs.index(node.attributes.xattrs);
    // Three bytes are counted for the two entries that every directory has.
    if (xattr === nothing && size + 3 <= 0xffff) {
      return this.#inode(node, false, [[4, start.block], [4, links], [2, size + 3], [2, start.offset], [4, parent]]); // prettier-ignore
    }
    return this.#inode(node, true, [[4, links], [4, size + 3], [4, start.block], [4, parent], [2, 0], [2, start.offset], [4, xattr]]); // prettier-ignore
  }

  /** Where the inode of a child stands; it is written now unless another name led to it before. */
  #place(node: TreeNode<Content>, parent: number): Place {
    const known = this.#places.get(node);
    if (known !== undefined) return known;
    const place = node.type === 'directory' ? this.#directory(node, parent) : this.#leaf(node);
    this.#places.set(node, place);
    return place;
  }

  #leaf(node: Exclude<TreeNode<Content>, DirectoryNode<Content>>): Place {
    const links = this.#links.get(node) ?? 1;
    const xattr = this.xattrs.index(node.attributes.xattrs);
    const xattrField: Field[] = xattr === nothing ? [] : [[4, xattr]];
    if (node.type === 'file') return this.#file(node, this.#options.place(node.content), links, xattr);
    if (node.type === 'symlink') {
      const target = bytesOf(node.target);
      return this.#inode(node, xattr !== nothing, [[4, links], [4, target.length], target, ...xattrField]); // prettier-ignore
    }
    const device: Field[] = node.type === 'fifo' ? [] : [[4, 0]];
    return this.#inode(node, xattr !== nothing, [[4, links], ...device, ...xattrField]);
  }

  #file(node: TreeNode<Content>, { size, start, blocks, fragment }: FilePlace, links: number, xattr: number): Place {
    const holes = blocks.filter((word) => word === 0).length;
    const where: Field[] = [[4, fragment?.index ?? nothing], [4, fragment?.offset ?? 0]]; // prettier-ignore
    const words = fields(blocks.map((word): Field => [4, word]));
    if (links === 1 && holes === 0 && xattr === nothing && size <= nothing && start <= nothing)
      return this.#inode(node, false, [[4, start], ...where, [4, size], words]);
    // A file that is all hole still counts as one byte.
    const sparse = Math.max(0, Math.min(holes * fileBlockSize, size - 1));
    return this.#inode(node, true, [[8, start], [8, size], [8, sparse], [4, links], ...where, [4, xattr], words]);
  }

  #inode(node: TreeNode<Content>, long: boolean, rest: readonly Field[]): Place {
    const { mode, uid, gid, mtime } = node.attributes;
    const place = this.inodes.place;
    this.inodes.write(
      fields([
        [2, inodeTypes[node.type] + (long ? extended : 0)],
        [2, mode & 0o7777],
        [2, this.#id(uid)],
        [2, this.#id(gid)],
        // Times before 1970 do not exist here.
        [4, Math.min(Math.max(Math.floor(mtime), 0), nothing)],
        [4, this.#numberOf(node)],
        ...rest,
      ]),
    );
    return place;
  }

  #id(id: number): number {
    const known = this.ids.get(id);
    if (known !== undefined) return known;
    if (this.ids.size === 0xffff) {
      throw new HpcsError('local', 'image-owners', 'the image has files of more than 65535 users and groups', {
        suggestion: 'give the files of the image fewer owners',
      });
    }
    this.ids.set(id, this.ids.size);
    return this.ids.size - 1;
  }

  /** Writes the entries of a directory in runs: at most 256, of inodes in one block, with numbers near that of the first. @returns bytes */
  #list(entries: readonly { name: Buffer; child: TreeNode<Content>; place: Place }[]): number {
    let size = 0;
    for (let from = 0; from < entries.length;) {
      const first = entries[from];
      if (first === undefined) break;
      const base = this.#numberOf(first.child);
      let to = from;
      const run: Buffer[] = [];
      for (; to < entries.length && to - from < 256; to++) {
        const entry = entries[to];
        if (entry === undefined) break;
        const distance = this.#numberOf(entry.child) - base;
        if (entry.place.block !== first.place.block || distance < -0x8000 || distance > 0x7fff) break;
        const type = inodeTypes[entry.child.type];
        run.push(fields([[2, entry.place.offset], [2, distance & 0xffff], [2, type], [2, entry.name.length - 1], entry.name])); // prettier-ignore
      }
      const bytes = Buffer.concat([fields([[4, to - from - 1], [4, first.place.block], [4, base]]), ...run]); // prettier-ignore
      this.directories.write(bytes);
      size += bytes.length;
      from = to;
    }
    return size;
  }
}

/** Bytes as they are, or a number in so many bytes. */
type Field = Buffer | readonly [width: 2 | 4 | 8, value: number | bigint];

/** Fields one after the other, the least significant byte of each first. */
function fields(list: readonly Field[]): Buffer {
  const bytes = Buffer.alloc(list.reduce((size, field) => size + (Buffer.isBuffer(field) ? field.length : field[0]), 0));
  let at = 0;
  for (const field of list) {
    if (Buffer.isBuffer(field)) {
      at += field.copy(bytes, at);
      continue;
    }
    const [width, value] = field;
    if (width === 8) bytes.writeBigUInt64LE(BigInt(value), at);
    else bytes.writeUIntLE(Number(value), at, width);
    at += width;
  }
  return bytes;
}

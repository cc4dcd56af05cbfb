/**
 * A file system as BuildKit sends it: first what each file is, one packet each, parents first; the content of those that are asked
 * for comes between these packets and after them, of several files in turn.
 *
 * @see tonistiigi/fsutil, types/wire.proto and types/stat.proto (messages), send.go (their order)
 */
import { nameOf } from '../pack/name.ts';
import { asBuffer, type Bytes } from '../seal/bytes.ts';
import { messageCoder, type MessageCoder } from '../protobuf.ts';
import { FileTree, type Attributes, type LayerEntry, type TreeNode } from './tree.ts';

/** What a packet is. */
export const packetType = { stat: 0, request: 1, data: 2, end: 3, error: 4 } as const;

/** What a file is. */
export interface Stat {
  /** Relative to the root, which itself is not told of. */
  path: Uint8Array;
  /** As Go has it: see {@link modeBits}. */
  mode: number;
  uid: number;
  gid: number;
  /** Bytes, in decimal. */
  size: string;
  /** Nanoseconds since 1970, in decimal. */
  modTime: string;
  /** Target of a symbolic link; of anything else the path of its first name. */
  linkname: Uint8Array;
  xattrs: Record<string, Uint8Array>;
}

export interface Packet {
  type: number;
  /** Null in the packet after the last file. */
  stat: Stat | null;
  /** A file's place in the order of the stats, from 0. */
  ID: number;
  /** Content; none at a file's end. Of an error its text. */
  data: Uint8Array;
}

// Paths are bytes here: they need not be text.
const coder = messageCoder<Packet>(
  {
    Packet: {
      fields: {
        type: { type: 'int32', id: 1 },
        stat: { type: 'Stat', id: 2 },
        ID: { type: 'uint32', id: 3 },
        data: { type: 'bytes', id: 4 },
      },
    },
    Stat: {
      fields: {
        path: { type: 'bytes', id: 1 },
        mode: { type: 'uint32', id: 2 },
        uid: { type: 'uint32', id: 3 },
        gid: { type: 'uint32', id: 4 },
        size: { type: 'int64', id: 5 },
        modTime: { type: 'int64', id: 6 },
        linkname: { type: 'bytes', id: 7 },
        xattrs: { keyType: 'string', type: 'bytes', id: 10 },
      },
    },
  },
  'Packet',
);

/** Between packets and their bytes. */
export const packetCoder: MessageCoder<Packet> = {
  encode: (packet) => coder.encode(packet),
  /** @throws FileSyncError for what is none */
  decode(bytes) {
    try {
      return coder.decode(bytes);
    } catch (error) {
      throw new FileSyncError('it sent what is no packet', { cause: error });
    }
  },
};

/** Bits of a mode beside the nine of the permissions. @see Go, io/fs, FileMode */
export const modeBits = {
  directory: 2 ** 31,
  symlink: 2 ** 27,
  device: 2 ** 26,
  fifo: 2 ** 25,
  setuid: 2 ** 23,
  setgid: 2 ** 22,
  character: 2 ** 21,
  sticky: 2 ** 20,
} as const;

/** Bytes that are asked for ahead. More are only those of one file that is larger. */
const window = 8 * 1024 * 1024;

/** The other side broke off, or did not keep to the protocol. */
export class FileSyncError extends Error {
  override readonly name = 'FileSyncError';
}

/**
 * Receives a file system. Nothing is read from `packets` that is not needed for the next file, so that they wait for `keep`. Two names
 * of one file are the same object, but for symbolic links, of which that is not told; nor is anything of the root itself. A socket comes as
 * an empty file.
 *
 * @param send sends a packet to the other side
 * @param keep takes the content of a file
 * @throws FileSyncError; what `packets` and `keep` throw
 */
export async function receiveFiles<Content>(
  packets: AsyncIterable<Packet>,
  send: (packet: Partial<Packet>) => void,
  keep: (size: number, body: Bytes) => Promise<Content>,
): Promise<FileTree<Content>> {
  const receiver = new Receiver(packets[Symbol.asyncIterator](), send);
  const entries: LayerEntry<Content>[] = [];
  for await (const { path, type, linkname, attributes, transfer } of receiver.files()) {
    if (type !== 'symlink' && linkname !== '') entries.push({ path, linkTo: linkname });
    else if (type === 'directory') entries.push({ path, node: { type, attributes, children: new Map() } });
    else if (type === 'symlink') entries.push({ path, node: { type, attributes, target: linkname } });
    else if (type !== 'file') entries.push({ path, node: { type, attributes } });
    else {
      const content = await keep(transfer?.size ?? 0, receiver.body(transfer));
      entries.push({ path, node: { type, attributes, content } });
    }
  }
  await receiver.finish();
  const tree = new FileTree<Content>();
  tree.apply(entries);
  return tree;
}

/** The content of a file on its way. */
interface Transfer {
  readonly id: number;
  readonly size: number;
  readonly pieces: Uint8Array[];
  received: number;
  ended: boolean;
}

/** A file that was told of. Nothing of it is in the memory of the packet: that is a part of some larger piece of the stream. */
interface Announced {
  readonly path: string;
  readonly type: TreeNode<unknown>['type'];
  readonly linkname: string;
  readonly attributes: Attributes;
  /** Undefined for what has no content. */
  readonly transfer: Transfer | undefined;
}

class Receiver {
  readonly #packets: AsyncIterator<Packet>;
  readonly #send: (packet: Partial<Packet>) => void;
  readonly #announced: (Announced | undefined)[] = [];
  /** How many of these have been handed on, and how many asked for as far as they have content. */
  #told = 0;
  #asked = 0;
  /** Asked for and not yet at their end, by their ids. */
  readonly #open = new Map<number, Transfer>();
  #walked = false;
  #ended = false;
  /** Bytes that were asked for and have not been taken. */
  #ahead = 0;

  constructor(packets: AsyncIterator<Packet>, send: (packet: Partial<Packet>) => void) {
    this.#packets = packets;
    this.#send = send;
  }

  /** Every file, in the order of the other side. The content of one is to be read before the next is asked for. */
  async *files(): AsyncGenerator<Announced, void, undefined> {
    for (;;) {
      while (this.#told === this.#announced.length && !this.#walked) await this.#next();
      const announced = this.#announced[this.#told];
      if (announced === undefined) return;
      // One is asked for, if at all, when it is told at the latest.
      this.#announced[this.#told++] = undefined;
      yield announced;
    }
  }

  async *body(transfer: Transfer | undefined): AsyncGenerator<Uint8Array, void, undefined> {
    if (transfer === undefined) return;
    for (;;) {
      while (transfer.pieces.length === 0 && !transfer.ended) await this.#next();
      const piece = transfer.pieces.shift();
      if (piece === undefined) return;
      yield piece;
      this.#ahead -= piece.length;
      this.#ask();
    }
  }

  /** Says that nothing more is wanted, and waits until the other side has agreed. */
  async finish(): Promise<void> {
    this.#send({ type: packetType.end });
    while (!this.#ended) await this.#next();
  }

  /** Takes one packet. */
  async #next(): Promise<void> {
    const next = await this.#packets.next();
    if (next.done === true) throw new FileSyncError('it ended early');
    const { type, stat, ID, data } = next.value;
    if (type === packetType.stat) this.#announce(stat);
    else if (type === packetType.data) this.#receive(ID, data);
    else if (type === packetType.end) this.#ended = true;
    else if (type === packetType.error) throw new FileSyncError(asBuffer(data).toString('utf8'));
    else throw new FileSyncError(`it sent a packet of the unknown type ${type}`);
  }

  #announce(stat: Stat | null): void {
    if (this.#walked) throw new FileSyncError('it told of a file after the last one');
    if (stat === null) {
      this.#walked = true;
      return;
    }
    const id = this.#announced.length;
    const size = Number(stat.size);
    if (!Number.isSafeInteger(size) || size < 0) throw new FileSyncError('it told of a file of an impossible size');
    const path = nameOf(asBuffer(stat.path));
    const linkname = nameOf(asBuffer(stat.linkname));
    const type = typeOf(stat.mode);
    const hasContent = type === 'file' && linkname === '' && size > 0;
    const transfer = hasContent ? { id, size, pieces: [], received: 0, ended: false } : undefined;
    this.#announced.push({ path, type, linkname, attributes: attributesOf(stat), transfer });
    this.#ask();
  }

  /** Asks for the next files. */
  #ask(): void {
    for (; this.#asked < this.#announced.length; this.#asked++) {
      const transfer = this.#announced[this.#asked]?.transfer;
      if (transfer === undefined) continue;
      if (this.#ahead > 0 && this.#ahead + transfer.size > window) return;
      this.#open.set(transfer.id, transfer);
      this.#ahead += transfer.size;
      this.#send({ type: packetType.request, ID: transfer.id });
    }
  }

  #receive(id: number, data: Uint8Array): void {
    const transfer = this.#open.get(id);
    if (transfer === undefined) throw new FileSyncError('it sent content that nobody had asked for');
    transfer.received += data.length;
    // One that cannot be opened comes as an empty one.
    if (transfer.received > transfer.size || (data.length === 0 && transfer.received < transfer.size))
      throw new FileSyncError('it sent a file of another size than it had said');
    if (data.length > 0) transfer.pieces.push(data);
    else {
      transfer.ended = true;
      this.#open.delete(id);
    }
  }
}

function typeOf(mode: number): TreeNode<unknown>['type'] {
  if ((mode & modeBits.directory) !== 0) return 'directory';
  if ((mode & modeBits.symlink) !== 0) return 'symlink';
  if ((mode & modeBits.fifo) !== 0) return 'fifo';
  if ((mode & modeBits.device) === 0) return 'file';
  return (mode & modeBits.character) === 0 ? 'block' : 'character';
}

function attributesOf({ mode, uid, gid, modTime, xattrs }: Stat): Attributes {
  const bit = (of: number, value: number): number => ((mode & of) === 0 ? 0 : value);
  const special = bit(modeBits.setuid, 0o4000) | bit(modeBits.setgid, 0o2000) | bit(modeBits.sticky, 0o1000);
  return {
    mode: (mode & 0o777) | special,
    uid,
    gid,
    mtime: Number(floorDivided(BigInt(modTime), 1_000_000_000n)),
    xattrs: new Map(
      Object.entries(xattrs).flatMap(([name, value]) => (isOfImage(name) ? [[name, Uint8Array.from(value)] as const] : [])),
    ),
  };
}

/** Whether an attribute is of the image, and not of the file system or the security module of the machine that it lies on. */
function isOfImage(name: string): boolean {
  return name.startsWith('user.') || name === 'security.capability';
}

function floorDivided(dividend: bigint, divisor: bigint): bigint {
  return (dividend - (((dividend % divisor) + divisor) % divisor)) / divisor;
}

import { HpcsError } from '../errors.ts';
import { ByteReader, type Bytes } from '../seal/bytes.ts';
import { blockData, nonceSize, openBlock, tagSize, type VolumeKeys } from './volume.ts';

const headerSize = 18;
const plainSize = 4096;
const cipherSize = nonceSize + plainSize + tagSize;
/** Blocks that are decrypted between two awaits: 1 MiB of plain bytes. */
const batch = 256;

/** How to decrypt a file. */
export interface ContentOptions {
  /** Called when the end of the file was never written whole, as after a kill: what stood before it has come out. */
  onCut?: (() => void) | undefined;
  /** Ends the stream with its reason. */
  signal?: AbortSignal | undefined;
}

/**
 * Decrypts a file of a volume, in constant memory. Each block that comes out was written under the volume's key as that block of
 * that file; the format does not show whether it is the newest, whether more followed, or whether a block of zeros was a hole.
 *
 * The last block is *cut* when it is shorter than others and does not authenticate, or when its end, and all after it, is zeros
 * (a node lost before its file system had written them). Any other block that does not authenticate was altered.
 *
 * @param cipher the whole file as it lies in the volume
 * @returns pieces of up to 1 MiB
 * @throws HpcsError (from the iterator) `integrity` `file-altered`
 * @see https://nuetzlich.net/gocryptfs/forward_mode_crypto/, "File Contents": a header of version (16 bits) and file id (16 bytes),
 * then blocks of nonce (16), up to 4096 encrypted bytes, tag (16). An empty file has no header; a block of zeros is a hole.
 */
export async function* decryptContent(
  keys: VolumeKeys,
  cipher: Bytes,
  options: ContentOptions = {},
): AsyncGenerator<Buffer, void, undefined> {
  const { onCut, signal } = options;
  await using reader = new ByteReader(cipher);
  const header = await reader.read(headerSize);
  if (header.length === 0) return;
  if (header.length < headerSize || isZero(header) || (await reader.atEnd())) {
    if (header.length === headerSize && !(await restIsZero(reader))) throw altered('its header is missing');
    onCut?.();
    return;
  }
  if (header.readUInt16BE() !== 2) throw altered('its header is not one of this format');
  const data = blockData(0, header.subarray(2));
  for (let index = 0; ; index += batch) {
    signal?.throwIfAborted();
    const blocks = await reader.read(batch * cipherSize);
    if (blocks.length === 0) return;
    const { plain, bad } = decryptBlocks(keys, blocks, data, index);
    if (plain.length > 0) yield plain;
    if (bad === undefined) continue;
    if (!(bad.length < cipherSize || (isZero(blocks.subarray(bad.end - tagSize)) && (await restIsZero(reader))))) {
      throw altered(`block ${bad.index} does not authenticate`);
    }
    onCut?.();
    return;
  }
}

/** A block that did not authenticate: its number in the file, its length, and where it ends in its batch. */
interface BadBlock {
  index: number;
  length: number;
  end: number;
}

/** Decrypts blocks up to the first that does not authenticate. */
function decryptBlocks(keys: VolumeKeys, blocks: Buffer, data: Buffer, first: number): { plain: Buffer; bad?: BadBlock } {
  const plain = Buffer.allocUnsafe(Math.ceil(blocks.length / cipherSize) * plainSize);
  let used = 0;
  for (let at = 0, index = first; at < blocks.length; at += cipherSize, index++) {
    const block = blocks.subarray(at, at + cipherSize);
    if (block.length === cipherSize && isZero(block)) {
      plain.fill(0, used, used + plainSize);
      used += plainSize;
      continue;
    }
    data.writeBigUInt64BE(BigInt(index));
    const opened = openBlock(keys.content, block, data);
    if (opened === undefined)
      return { plain: plain.subarray(0, used), bad: { index, length: block.length, end: at + block.length } };
    plain.set(opened, used);
    used += opened.length;
  }
  return { plain: plain.subarray(0, used) };
}

const zeros = Buffer.alloc(64 * 1024);

/** Whether bytes are all zero; true where there are none. */
function isZero(bytes: Buffer): boolean {
  for (let at = 0; at < bytes.length; at += zeros.length) {
    const part = bytes.subarray(at, at + zeros.length);
    if (part.compare(zeros, 0, part.length) !== 0) return false;
  }
  return true;
}

async function restIsZero(reader: ByteReader): Promise<boolean> {
  for await (const piece of reader.rest()) {
    if (!isZero(piece)) return false;
  }
  return true;
}

function altered(what: string): HpcsError {
  return new HpcsError('integrity', 'file-altered', `a file of the encrypted volume is damaged or was altered: ${what}`);
}

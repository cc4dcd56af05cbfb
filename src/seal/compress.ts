/**
 * Compression inside the sealed stream: zstd in independent frames, of 1 MiB where they are ours.
 *
 * @see RFC 8878 (Zstandard), section 3.1
 */
import { pipeline, type Duplex } from 'node:stream';
import { promisify } from 'node:util';
import { createGunzip, createZstdDecompress, zstdDecompress, type ZstdOptions } from 'node:zlib';
import { HpcsError, messageOf } from '../errors.ts';
import { BlockWriter } from './block-writer.ts';
import { blockSize, ByteReader, free, inBlocks, type Bytes } from './bytes.ts';
import { compressFrame, compressingHere, frameSize, type Compressor } from './compressor.ts';
import { corrupt } from './faults.ts';
import { Pace } from './pace.ts';
import { Samples } from './samples.ts';

/**
 * `auto` stores what does not get smaller; `paced` does so too, and stores also what gets only somewhat smaller while bytes leave so fast
 * that compressing them would take longer than it saves; `zstd` compresses all; `none` leaves the stream as it is.
 */
export type Compression = 'auto' | 'paced' | 'zstd' | 'none';

/** Largest frame that is expanded as a whole; larger ones are streamed. Those that we wrote earlier have this size. */
const largestWhole = 4 * blockSize;

/** Frames that are being expanded at any time. */
const inFlight = 3;

const zstdMagic = 0xfd2fb528;
const skippableMagic = 0x184d2a50;
const skippableMask = 0xfffffff0;
const magicSize = 4;
const largestRawBlock = 128 * 1024;

const expandFrame = promisify<Uint8Array, ZstdOptions, Buffer>(zstdDecompress);

/** How to compress, for who makes gigabytes. */
export interface CompressOptions {
  /** Default: this thread. */
  compressor?: Compressor;
  /** Memory of a block that comes out is used again when this many later ones have come out. Default: never. */
  reuseAfter?: number;
  /** How fast bytes leave, for `paced`. Default: as they are taken. */
  pace?: Pace;
  /** Times samples, in milliseconds. Default: as they are. */
  stopwatch?: () => number;
}

/** Compresses a byte stream. What comes out with `auto` or `zstd` is one any zstd program expands. */
export function compressed(input: Bytes, mode: Compression, options: CompressOptions = {}): Bytes {
  if (mode === 'none') return input;
  const { compressor = compressingHere(), pace = new Pace(), reuseAfter } = options;
  const samples = new Samples(options.stopwatch);
  const compress = (frame: Buffer): boolean => mode === 'zstd' || samples.judge(frame, mode === 'paced' ? pace.rate : 0);
  return gathered(frames(input, compress, compressor), reuseAfter, pace);
}

/** Expands a zstd or gzip stream, told by its first bytes; any other stream passes unchanged. @throws HpcsError `integrity` */
export async function* decompressed(input: Bytes): AsyncGenerator<Uint8Array, void, undefined> {
  await using reader = new ByteReader(input);
  const magic = await reader.peek(magicSize);
  if (isZstd(magic)) yield* inOrder(expandedFrames(reader));
  else if (magic.length >= 3 && magic.readUIntBE(0, 3) === 0x1f8b08)
    yield* through(reader.rest(), createGunzip({ chunkSize: blockSize }));
  else yield* reader.rest();
}

async function* gathered(input: Bytes, reuseAfter: number | undefined, pace: Pace): AsyncGenerator<Buffer, void, undefined> {
  const blocks = new BlockWriter(blockSize, reuseAfter);
  for await (const piece of input) {
    for (const block of blocks.write(piece)) {
      yield block;
      pace.count(block.length);
    }
  }
  yield* blocks.finish();
}

/** A piece of what comes out is good until the next one is taken. */
async function* frames(
  input: Bytes,
  compress: (frame: Buffer) => boolean,
  compressor: Compressor,
): AsyncGenerator<Uint8Array, void, undefined> {
  let empty = true;
  let waiting = 0;
  for await (const frame of inBlocks(input, frameSize)) {
    empty = false;
    // For one that is short, which is the last, threads that did nothing yet would take longer to start than it takes.
    const here = !compress(frame) ? storedFrame(frame) : frame.length < frameSize ? [compressFrame(frame)] : undefined;
    if (here !== undefined) {
      for (; waiting > 0; waiting--) yield compressor.take();
      yield* here;
      continue;
    }
    if (waiting === compressor.capacity) {
      yield compressor.take();
      waiting--;
    }
    compressor.put(frame);
    waiting++;
  }
  for (; waiting > 0; waiting--) yield compressor.take();
  if (empty) yield* storedFrame(Buffer.alloc(0));
}

/** What one frame becomes: bytes that are there or being made on another thread, or a stream. (A generator awaits a bare promise.) */
type Result = { bytes: Promise<readonly Uint8Array[]> } | { stream: Bytes };

/** Awaits several results at a time and yields them in their order. */
async function* inOrder(results: AsyncIterable<Result>): AsyncGenerator<Uint8Array, void, undefined> {
  const waiting: Promise<readonly Uint8Array[]>[] = [];
  for await (const result of results) {
    if ('stream' in result) {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) yield* await next;
      yield* result.stream;
      continue;
    }
    // Awaited below; but another one that fails first would leave this one's failure to nobody.
    result.bytes.catch(() => undefined);
    waiting.push(result.bytes);
    if (waiting.length >= inFlight) yield* (await waiting.shift()) ?? [];
  }
  for (const next of waiting) yield* await next;
}

/** A frame that holds its content uncompressed. @see RFC 8878, sections 3.1.1.1 and 3.1.1.2 */
function* storedFrame(content: Buffer): Generator<Buffer, void, undefined> {
  const header = Buffer.alloc(magicSize + 5);
  header.writeUInt32LE(zstdMagic, 0);
  // Single segment, content size in four bytes.
  header[4] = 0b1010_0000;
  header.writeUInt32LE(content.length, 5);
  yield header;
  for (let start = 0, last = false; !last; start += largestRawBlock) {
    const block = content.subarray(start, start + largestRawBlock);
    last = start + block.length === content.length;
    const blockHeader = Buffer.alloc(3);
    blockHeader.writeUIntLE((block.length << 3) | (last ? 1 : 0), 0, 3);
    yield blockHeader;
    yield block;
  }
}

function isZstd(magic: Buffer): boolean {
  if (magic.length < magicSize) return false;
  const value = magic.readUInt32LE(0);
  return value === zstdMagic || (value & skippableMask) >>> 0 === skippableMagic;
}

// node:zlib stops silently after the first frame, so the frames are told apart here.
async function* expandedFrames(reader: ByteReader): AsyncGenerator<Result, void, undefined> {
  while (!(await reader.atEnd())) {
    const magic = await exactly(reader, magicSize);
    if (!isZstd(magic)) throw corrupt('its compressed content goes on with something else');
    if (magic.readUInt32LE(0) !== zstdMagic) {
      for (let left = (await exactly(reader, 4)).readUInt32LE(0); left > 0;) {
        const piece = await reader.some(left);
        if (piece === undefined) throw corrupt('its compressed content ends too early');
        left -= piece.length;
      }
      continue;
    }
    const header = await readFrameHeader(reader, magic);
    if (header.contentSize === undefined || header.contentSize > largestWhole)
      yield { stream: through(frameBytes(reader, header), createZstdDecompress({ chunkSize: blockSize })) };
    else yield { bytes: wholeFrame(await collected(reader, header, header.contentSize), header.contentSize) };
  }
}

interface FrameHeader {
  raw: Buffer;
  contentSize: number | undefined;
  checksum: boolean;
  /** Whether nothing but its blocks says what it holds: neither a checksum nor a dictionary. */
  plain: boolean;
}

async function readFrameHeader(reader: ByteReader, magic: Buffer): Promise<FrameHeader> {
  const first = await exactly(reader, 1);
  const descriptor = first.readUInt8(0);
  const singleSegment = (descriptor & 0x20) !== 0;
  const windowSize = singleSegment ? 0 : 1;
  const dictionarySize = [0, 1, 2, 4][descriptor & 3] ?? 0;
  const contentSizeSize = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0;
  const rest = await exactly(reader, windowSize + dictionarySize + contentSizeSize);
  const field = rest.subarray(windowSize + dictionarySize);
  let contentSize: number | undefined;
  if (contentSizeSize === 1) contentSize = field.readUInt8(0);
  else if (contentSizeSize === 2) contentSize = field.readUInt16LE(0) + 256;
  else if (contentSizeSize === 4) contentSize = field.readUInt32LE(0);
  else if (contentSizeSize === 8) contentSize = Number(field.readBigUInt64LE(0));
  return {
    raw: Buffer.concat([magic, first, rest]),
    contentSize,
    checksum: (descriptor & 4) !== 0,
    plain: (descriptor & 0xf) === 0,
  };
}

/** A block of a frame. @see RFC 8878, section 3.1.1.2 */
interface FrameBlock {
  header: Buffer;
  /** Whether the content is what the block stands for, uncompressed. */
  stored: boolean;
  content: Buffer;
}

async function* frameBlocks(reader: ByteReader): AsyncGenerator<FrameBlock, void, undefined> {
  for (let last = false; !last;) {
    const header = await exactly(reader, 3);
    const value = header.readUIntLE(0, 3);
    last = (value & 1) === 1;
    const type = (value >> 1) & 3;
    // Of a run-length block only the one byte is there.
    const size = type === 1 ? 1 : value >> 3;
    if (size > largestRawBlock) throw corrupt('its compressed content has a block that is too long');
    yield { header, stored: type === 0, content: await exactly(reader, size) };
  }
}

/** The bytes of one frame, header and checksum included. */
async function* frameBytes(reader: ByteReader, { raw, checksum }: FrameHeader): AsyncGenerator<Buffer, void, undefined> {
  yield raw;
  for await (const { header, content } of frameBlocks(reader)) {
    yield header;
    if (content.length > 0) yield content;
  }
  if (checksum) yield await exactly(reader, 4);
}

/** A frame in memory: what it holds if that is stored in it, else all its bytes. */
interface Frame {
  stored: boolean;
  parts: readonly Buffer[];
}

async function collected(reader: ByteReader, header: FrameHeader, contentSize: number): Promise<Frame> {
  const bytes = [header.raw];
  const contents: Buffer[] = [];
  let stored = header.plain;
  let size = 0;
  for await (const block of frameBlocks(reader)) {
    bytes.push(block.header, block.content);
    contents.push(block.content);
    stored &&= block.stored;
    size += block.header.length + block.content.length;
    if (size > contentSize + 64 * 1024) throw corrupt('its compressed content is longer than it says');
  }
  if (header.checksum) bytes.push(await exactly(reader, 4));
  return { stored, parts: stored ? contents : bytes };
}

async function wholeFrame({ stored, parts }: Frame, contentSize: number): Promise<readonly Uint8Array[]> {
  const pieces = stored ? parts : [await expanded(Buffer.concat(parts), contentSize)];
  if (pieces.reduce((sum, piece) => sum + piece.length, 0) === contentSize) return pieces;
  throw corrupt('its compressed content has another size than it says');
}

async function expanded(frame: Buffer, contentSize: number): Promise<Buffer> {
  try {
    // One byte of room is left: where there is none node:zlib makes as much memory once more.
    return await expandFrame(frame, { chunkSize: Math.max(contentSize + 1, 1024), maxOutputLength: Math.max(contentSize, 1) });
  } catch (error) {
    throw corrupt(`its compressed content cannot be expanded (${messageOf(error)})`, error);
  } finally {
    free(frame);
  }
}

/** Expands a stream by one of node:zlib's expanders, to its end. @throws HpcsError `integrity` */
export async function* through(input: Bytes, expander: Duplex): AsyncGenerator<Uint8Array, void, undefined> {
  let drained = false;
  const whole = (async function* () {
    yield* input;
    drained = true;
  })();
  // The pipeline's own error reaches the expander, and from there the loop.
  pipeline(whole, expander, () => undefined);
  try {
    for await (const piece of expander) yield piece as Buffer;
  } catch (error) {
    if (error instanceof HpcsError) throw error;
    throw corrupt(`its compressed content cannot be expanded (${messageOf(error)})`, error);
  }
  // A gunzip is content with less than it is given; what it did not ask for would be neither authenticated nor digested.
  if (!drained) throw corrupt('something stands behind its compressed content');
}

async function exactly(reader: ByteReader, size: number): Promise<Buffer> {
  const bytes = await reader.read(size);
  if (bytes.length < size) throw corrupt('its compressed content ends too early');
  return bytes;
}

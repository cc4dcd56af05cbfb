/**
 * Byte streams as this program moves them: async iterables of blocks of about 1 MiB. Blocks are large because every `await`
 * costs as much as encrypting some kilobytes.
 */
import { HpcsError } from '../errors.ts';

/** Size of the blocks that pass between the steps of a pipeline, in bytes. */
export const blockSize = 1024 * 1024;

/** Bytes in order, in pieces of any size. A piece is not changed once it has been handed over. */
export type Bytes = AsyncIterable<Uint8Array>;

/** Memory of blocks, which is used again, but not before they are released. */
export interface BlockMemory {
  /** Gives back the oldest blocks that came out. */
  release(blocks: number): void;
  /** Lets twice as many blocks be held, for who needs them longer. */
  widen(): void;
}

/** What waits for the end of a stream is told this where nobody reads on. */
export function unfinished(): HpcsError {
  return new HpcsError('local', 'stream-unfinished', 'the stream was not read to its end', {
    suggestion: 'run the command again',
  });
}

/** A view of the same memory with Buffer's methods. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Reads a byte stream by count instead of by piece. Memory: what was asked for, and one piece of the stream. */
export class ByteReader implements AsyncDisposable {
  readonly #source: AsyncIterator<Uint8Array>;
  #piece: Buffer = Buffer.alloc(0);
  /** What follows it and was taken from the stream, too. */
  #behind: Buffer = Buffer.alloc(0);
  #ended = false;

  constructor(source: Bytes) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Exactly `size` bytes, or all that are left where they are fewer. */
  async read(size: number): Promise<Buffer> {
    const bytes = await this.peek(size);
    this.#piece = this.#piece.subarray(bytes.length);
    return bytes;
  }

  /** The next `size` bytes (fewer at the end) without taking them. */
  async peek(size: number): Promise<Buffer> {
    if (this.#piece.length === 0) await this.#next();
    if (this.#piece.length >= size) return this.#piece.subarray(0, size);
    const parts = [this.#piece];
    let have = this.#piece.length;
    while (have < size && (await this.#next())) {
      // Of the last one no more than is asked for, which is little: it would be copied with it.
      const part = this.#piece.subarray(0, size - have);
      this.#behind = this.#piece.subarray(part.length);
      parts.push(part);
      have += part.length;
    }
    this.#piece = Buffer.concat(parts, have);
    return this.#piece;
  }

  /** Between one and `most` bytes, whatever is at hand and not copied; undefined at the end. */
  async some(most: number): Promise<Buffer | undefined> {
    if (this.#piece.length === 0 && !(await this.#next())) return undefined;
    const bytes = this.#piece.subarray(0, most);
    this.#piece = this.#piece.subarray(bytes.length);
    return bytes;
  }

  /** Whether nothing is left. */
  async atEnd(): Promise<boolean> {
    return this.#piece.length === 0 && !(await this.#next());
  }

  /** All that is left, in the stream's own pieces. */
  async *rest(): AsyncGenerator<Buffer, void, undefined> {
    for (let piece = await this.some(Infinity); piece !== undefined; piece = await this.some(Infinity)) yield piece;
  }

  /** Ends the stream below, so that it can free what it holds. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) {
      this.#ended = true;
      await this.#source.return?.();
    }
  }

  /** Puts the next non-empty piece in place of the current one. */
  async #next(): Promise<boolean> {
    if (this.#behind.length > 0) {
      this.#piece = this.#behind;
      this.#behind = Buffer.alloc(0);
      return true;
    }
    while (!this.#ended) {
      const next = await this.#source.next();
      if (next.done === true) {
        this.#ended = true;
      } else if (next.value.length > 0) {
        this.#piece = asBuffer(next.value);
        return true;
      }
    }
    return false;
  }
}

/**
 * The same bytes in blocks of exactly `size`, but for the last, which is shorter and never empty.
 *
 * @param signal ends the stream with its reason between two blocks
 */
export async function* inBlocks(input: Bytes, size: number, signal?: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
  let block: Buffer | undefined;
  let used = 0;
  for await (const piece of input) {
    signal?.throwIfAborted();
    let taken = 0;
    while (taken < piece.length) {
      if (used === 0 && piece.length - taken >= size) {
        yield asBuffer(piece).subarray(taken, taken + size);
        taken += size;
        continue;
      }
      block ??= Buffer.allocUnsafeSlow(size);
      const part = piece.subarray(taken, taken + size - used);
      block.set(part, used);
      used += part.length;
      taken += part.length;
      if (used === size) {
        yield block;
        block = undefined;
        used = 0;
      }
    }
  }
  if (block !== undefined) yield block.subarray(0, used);
}

/**
 * Copies all of some bytes to a place in others. From and to memory that threads share, V8 copies word by word, or byte by byte where the
 * two places do not lie alike between words; filling a buffer with bytes that fill it once is one copy of the C library, in half the time
 * and less.
 *
 * @throws RangeError when they do not fit
 */
export function copyBytes(source: Uint8Array, target: Uint8Array, place: number): void {
  const shared = source.buffer instanceof SharedArrayBuffer || target.buffer instanceof SharedArrayBuffer;
  // With nothing to fill with, a buffer would be filled with zeros, or say that it cannot.
  if (shared && source.length > 0) asBuffer(target).fill(source, place, place + source.length);
  else target.set(source, place);
}

/**
 * Gives memory back at once, instead of whenever garbage is collected next: what node:crypto and node:zlib return counts for little
 * with the collector, and would pile up. Nothing of it may be used any more.
 */
export function free(bytes: Uint8Array): void {
  const { buffer } = bytes;
  // A smaller one may be a part of a pool, or of somebody else's memory.
  if (buffer instanceof ArrayBuffer && bytes.byteLength === buffer.byteLength && !buffer.detached) buffer.transfer(0);
}

/** The same for bytes that nobody shares their memory with, unless it is Node's pool of small ones. */
export function freeWhole({ buffer }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && !buffer.detached && buffer.byteLength > Buffer.poolSize) buffer.transfer(0);
}

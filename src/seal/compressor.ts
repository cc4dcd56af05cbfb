/**
 * Who compresses frames: this thread, others that share memory with it, or all of them. What is compressed comes out in the order in which
 * it was put in.
 */
import { constants, zstdCompressSync } from 'node:zlib';
import { blockSize, freeWhole } from './bytes.ts';
import { makeRing, RingConsumer, RingProducer, type RingMemory } from './ring.ts';

/** Bytes that are compressed as one, at most. Smaller ones would compress worse, larger ones leave a core's cache. */
export const frameSize = blockSize;

/** Compresses frames. */
export interface Compressor {
  /** Frames that may be put in before one has to be taken. */
  readonly capacity: number;
  /** Takes a frame, of {@link frameSize} at most. Its memory may be used again at once, unless it is some that a compressor gave. */
  put(frame: Uint8Array): void;
  /** The oldest frame that was put in, compressed. Good until the next one is taken. */
  take(): Uint8Array;
}

/**
 * Level 1, the only one that keeps pace with the cipher, with twice its hash table: tables of numbers become a fifth smaller, and are
 * done sooner, as there is less to write; prose becomes 7 % smaller in the same time. A yet larger table leaves the nearest cache.
 */
const level = { [constants.ZSTD_c_compressionLevel]: 1, [constants.ZSTD_c_hashLog]: 15 };

/** What bytes become at most, and a little more. @see ZSTD_COMPRESSBOUND in zstd.h */
const bound = (size: number): number => size + Math.ceil(size / 256) + 1024;

/**
 * Compresses bytes as one zstd frame that tells their size. In one call: handed over in pieces, or asynchronously, zstd would copy them
 * first and search in two places, at half the speed. Data is authenticated outside, so there is no checksum.
 */
export function compressFrame(frame: Uint8Array): Buffer {
  // What is larger than Node's pool of small ones has memory of its own, which can be given back.
  const chunkSize = Math.max(bound(frame.length), Buffer.poolSize + 1);
  return zstdCompressSync(frame, { params: level, chunkSize, pledgedSrcSize: frame.length });
}

/** Compresses on the calling thread. */
export function compressingHere(): Compressor {
  const done: Buffer[] = [];
  return {
    capacity: 1,
    put: (frame) => void done.push(compressFrame(frame)),
    take: () => done.shift() ?? Buffer.alloc(0),
  };
}

/** What one compressing thread shares with who feeds it: a block in is a frame, and so is a block out. */
export interface CompressorMemory {
  frames: RingMemory;
  compressed: RingMemory;
}

/** Frames that wait for a thread, and as many that it has done: with fewer, threads stand still while the oldest frame is waited for. */
const slots = 8;

/** Makes the memory of a compressing thread. */
export function makeCompressorMemory(): CompressorMemory {
  return { frames: makeRing(slots, frameSize, 1), compressed: makeRing(slots, bound(frameSize), 1) };
}

/**
 * Frames that are compressed here while the threads have enough to do, at most, before the oldest frame is waited for. With one more,
 * a single thread that has done all it was given would have no room for the next one: its last result waits for the oldest to go.
 */
const mostHere = slots - 1;

interface Thread {
  frames: RingProducer;
  compressed: RingConsumer;
}

/**
 * Compresses on other threads, and on the calling one while none of those has room. Waiting for them stops the calling thread.
 *
 * @throws RingFailed from its methods
 */
export class CompressingThreads implements Compressor {
  readonly capacity: number;
  readonly #threads: readonly Thread[];
  readonly #start: () => void;
  #started = false;
  /** Where what was put in comes out, the oldest first; what was compressed here is there already. */
  readonly #order: (RingConsumer | Buffer)[] = [];
  #taken: RingConsumer | Buffer | undefined;
  /** The thread whose turn it is. */
  #turn = 0;

  /** @param start called before the first frame is put in: the threads need not run before */
  constructor(memories: readonly CompressorMemory[], start: () => void) {
    this.#start = start;
    this.#threads = memories.map(({ frames, compressed }) => ({
      frames: new RingProducer(frames),
      compressed: new RingConsumer(compressed, 0),
    }));
    this.capacity = slots * memories.length + mostHere;
  }

  /**
   * Memory for the next frame, which need not be copied then; undefined before the first one, and while no thread has room. The same
   * comes again when that one was not put in.
   */
  room(): Buffer | undefined {
    return this.#started ? this.#free()?.frames.allocate(frameSize) : undefined;
  }

  put(frame: Uint8Array): void {
    if (!this.#started) this.#start();
    this.#started = true;
    const thread = this.#free();
    if (thread === undefined) {
      this.#order.push(compressFrame(frame));
      return;
    }
    thread.frames.put(frame);
    thread.frames.flush();
    this.#order.push(thread.compressed);
    this.#turn++;
  }

  take(): Uint8Array {
    if (this.#taken instanceof RingConsumer) this.#taken.release();
    else if (this.#taken !== undefined) freeWhole(this.#taken);
    this.#taken = this.#order.shift();
    const compressed = this.#taken instanceof RingConsumer ? this.#taken.next() : this.#taken;
    if (compressed === undefined) throw new RangeError('more frames are taken than were put in');
    return compressed;
  }

  /** No more frames will come: lets the threads end. */
  end(): void {
    for (const { frames } of this.#threads) frames.end();
  }

  /** The next thread that has room; the same again until a frame was put in. */
  #free(): Thread | undefined {
    for (let tried = 0; tried < this.#threads.length; tried++, this.#turn++) {
      const thread = this.#threads[this.#turn % this.#threads.length];
      if (thread?.frames.hasRoom === true) return thread;
    }
    return undefined;
  }
}

/**
 * A ring of blocks in shared memory: one thread fills them in order, others take them in the same order. Blocks change hands without
 * being copied, and what is full makes its producer wait, so that memory does not grow with the data.
 */
import { copyBytes } from './bytes.ts';

/** How a ring is handed to another thread. All of it is shared memory. */
export interface RingMemory {
  readonly blocks: SharedArrayBuffer;
  readonly control: SharedArrayBuffer;
  readonly consumers: number;
  /** Blocks after which counts begin at 0 again: a multiple of all that it may be widened to, lest they jump in the ring; twice as many at least. */
  readonly turn: number;
}

/** Words of the control memory: the first five, then one for each consumer, then the size of each block. */
const word = { produced: 0, state: 1, changes: 2, slots: 3, wanted: 4, released: 5 } as const;

const state = { running: 0, ended: 1, failed: 2 } as const;

/**
 * Makes the memory of a ring.
 *
 * @param slots blocks in it
 * @param slotSize bytes of a block, at most
 * @param consumers threads that each see every block; one becomes free when all of them have released it
 * @param most blocks that it may be widened to: as many, or twice, four times as many and so on. What is not used of them takes no memory
 */
export function makeRing(slots: number, slotSize: number, consumers: number, most = slots): RingMemory {
  if (most < slots || !Number.isInteger(Math.log2(most / slots))) throw new RangeError('a ring is widened by doubling it');
  const control = new SharedArrayBuffer(4 * (word.released + consumers + most));
  new Int32Array(control).fill(slots, word.slots, word.wanted + 1);
  return { blocks: new SharedArrayBuffer(most * slotSize), control, consumers, turn: mostCounts - (mostCounts % most) };
}

/** Counts lie in signed words of 32 bits. */
const mostCounts = 2 ** 31 - 1;

/** What both ends know. Counts are of blocks. */
class RingEnd {
  protected readonly control: Int32Array;
  protected readonly most: number;
  protected readonly slotSize: number;
  protected readonly consumers: number;
  readonly #turn: number;
  readonly #blocks: Buffer;

  constructor({ blocks, control, consumers, turn }: RingMemory) {
    this.control = new Int32Array(control);
    this.consumers = consumers;
    this.#turn = turn;
    this.most = this.control.length - word.released - consumers;
    this.slotSize = blocks.byteLength / this.most;
    this.#blocks = Buffer.from(blocks);
  }

  /** Blocks in it now. */
  protected get slots(): number {
    return Atomics.load(this.control, word.slots);
  }

  protected slot(count: number): Buffer {
    const start = this.#index(count) * this.slotSize;
    return this.#blocks.subarray(start, start + this.slotSize);
  }

  protected sizeOf(count: number): number {
    return Atomics.load(this.control, word.released + this.consumers + this.#index(count));
  }

  protected setSize(count: number, size: number): void {
    Atomics.store(this.control, word.released + this.consumers + this.#index(count), size);
  }

  /** A count so many blocks later. */
  protected later(count: number, blocks: number): number {
    return (count + blocks) % this.#turn;
  }

  /** Blocks from one count to a later one. */
  protected between(earlier: number, count: number): number {
    return (count - earlier + this.#turn) % this.#turn;
  }

  /** Tells all that wait that something is different now. */
  protected changed(): void {
    Atomics.add(this.control, word.changes, 1);
    Atomics.notify(this.control, word.changes);
  }

  #index(count: number): number {
    return count % this.slots;
  }
}

/** Thrown to whoever waits at a ring whose other end failed; the failure itself is told elsewhere. */
export class RingFailed extends Error {
  constructor() {
    super('the other end of the ring failed');
  }
}

/** The end that fills blocks. */
export class RingProducer extends RingEnd {
  #produced = 0;
  #used = 0;
  #current: Buffer | undefined;

  /**
   * Memory of the ring to be filled in place and handed over by {@link put}; waits, stopping the thread, while the ring is full.
   *
   * @throws RingFailed
   */
  allocate(size: number): Buffer {
    this.flush();
    this.#current ??= this.#wait();
    return this.#current.subarray(0, size);
  }

  /** Whether there is a block to be filled without waiting. One that was free stays so until it is filled. @throws RingFailed */
  get hasRoom(): boolean {
    this.#current ??= this.#free();
    return this.#current !== undefined;
  }

  /** Hands over bytes, at once what was allocated here, else by copying them; waits as `allocate` does. @throws RingFailed */
  put(bytes: Uint8Array): void {
    const current = this.#current;
    if (this.#used === 0 && current !== undefined && bytes.buffer === current.buffer && bytes.byteOffset === current.byteOffset) {
      this.#used = bytes.length;
      this.flush();
      return;
    }
    for (let taken = 0; taken < bytes.length;) {
      this.#current ??= this.#wait();
      taken += this.#copy(this.#current, bytes, taken);
    }
  }

  /** Hands over bytes by copying them; waits without stopping the thread. @throws RingFailed */
  async putAsync(bytes: Uint8Array): Promise<void> {
    for (let taken = 0; taken < bytes.length;) {
      this.#current ??= await this.#waitAsync();
      taken += this.#copy(this.#current, bytes, taken);
    }
  }

  /** Hands over a block that is not full. */
  flush(): void {
    if (this.#used === 0) return;
    this.setSize(this.#produced, this.#used);
    this.#produced = this.later(this.#produced, 1);
    this.#used = 0;
    this.#current = undefined;
    Atomics.store(this.control, word.produced, this.#produced);
    this.changed();
  }

  /** Hands over the last block: no more will come. */
  end(): void {
    this.flush();
    this.#finish(state.ended);
  }

  /** Makes whoever waits for blocks stop waiting. */
  fail(): void {
    this.#finish(state.failed);
  }

  #copy(block: Buffer, bytes: Uint8Array, taken: number): number {
    const part = bytes.subarray(taken, taken + this.slotSize - this.#used);
    copyBytes(part, block, this.#used);
    this.#used += part.length;
    if (this.#used === this.slotSize) this.flush();
    return part.length;
  }

  #finish(value: number): void {
    Atomics.compareExchange(this.control, word.state, state.running, value);
    this.changed();
  }

  #free(): Buffer | undefined {
    if (Atomics.load(this.control, word.state) === state.failed) throw new RingFailed();
    this.#widen();
    for (let consumer = 0; consumer < this.consumers; consumer++) {
      const held = this.between(Atomics.load(this.control, word.released + consumer), this.#produced);
      if (held >= this.slots) return undefined;
    }
    return this.slot(this.#produced);
  }

  /**
   * Doubles the blocks if a consumer asked for more, at a count that is an odd multiple of them: each block that is not yet released is
   * then where it would be in the wider ring, too.
   */
  #widen(): void {
    const slots = this.slots;
    if (Atomics.load(this.control, word.wanted) > slots && this.#produced % (2 * slots) === slots)
      Atomics.store(this.control, word.slots, 2 * slots);
  }

  #wait(): Buffer {
    for (;;) {
      const seen = Atomics.load(this.control, word.changes);
      const free = this.#free();
      if (free !== undefined) return free;
      Atomics.wait(this.control, word.changes, seen);
    }
  }

  async #waitAsync(): Promise<Buffer> {
    for (;;) {
      const seen = Atomics.load(this.control, word.changes);
      const free = this.#free();
      if (free !== undefined) return free;
      await Atomics.waitAsync(this.control, word.changes, seen).value;
    }
  }
}

/** An end that takes blocks. What it took stays as it is until it releases it. */
export class RingConsumer extends RingEnd {
  readonly #consumer: number;
  #taken = 0;
  #released = 0;

  /** @param consumer which of the ring's consumers this is, from 0 */
  constructor(memory: RingMemory, consumer: number) {
    super(memory);
    this.#consumer = consumer;
  }

  /** The next block, or undefined after the last one; waits, stopping the thread. @throws RingFailed */
  next(): Buffer | undefined {
    for (;;) {
      const seen = Atomics.load(this.control, word.changes);
      const block = this.#take();
      if (block !== null) return block;
      Atomics.wait(this.control, word.changes, seen);
    }
  }

  /** The same without stopping the thread. @throws RingFailed */
  async nextAsync(): Promise<Buffer | undefined> {
    for (;;) {
      const seen = Atomics.load(this.control, word.changes);
      const block = this.#take();
      if (block !== null) return block;
      await Atomics.waitAsync(this.control, word.changes, seen).value;
    }
  }

  /** Gives back the oldest blocks that were taken; nothing of them may be used any more. */
  release(count = 1): void {
    if (this.between(this.#released, this.#taken) < count) throw new RangeError('more blocks released than taken');
    this.#released = this.later(this.#released, count);
    Atomics.store(this.control, word.released + this.#consumer, this.#released);
    this.changed();
  }

  /** From some block on there are as many as there may be. */
  widen(): void {
    Atomics.store(this.control, word.wanted, this.most);
    this.changed();
  }

  /** Makes the producer stop. */
  fail(): void {
    Atomics.store(this.control, word.state, state.failed);
    this.changed();
  }

  /** Null: there is none yet. */
  #take(): Buffer | undefined | null {
    // In this order: what is produced before the end is seen with it.
    const now = Atomics.load(this.control, word.state);
    if (now === state.failed) throw new RingFailed();
    if (this.#taken !== Atomics.load(this.control, word.produced)) {
      const block = this.slot(this.#taken).subarray(0, this.sizeOf(this.#taken));
      this.#taken = this.later(this.#taken, 1);
      return block;
    }
    return now === state.ended ? undefined : null;
  }
}

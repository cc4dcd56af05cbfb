import { copyBytes } from './bytes.ts';

/**
 * Gives memory of the size of a block for the next one; undefined leaves that to who asks. What was written into it is good until memory
 * is asked for again.
 */
export type NextBlock = () => Buffer | undefined;

/** Gathers bytes into blocks that pass on when they are full. */
export class BlockWriter {
  readonly #size: number;
  readonly #reuseAfter: number;
  readonly #given: NextBlock;
  readonly #handedOver: Buffer[] = [];
  #block: Buffer;
  #own = true;
  #used = 0;
  /** Whether the block was handed over. What is to take its place is asked for when it is needed. */
  #full = false;

  /**
   * @param size of the blocks, in bytes
   * @param reuseAfter memory of a block is used again when this many later ones have come out; 0 means never
   * @param given memory of others for the blocks after the first one
   */
  constructor(size: number, reuseAfter = 0, given: NextBlock = () => undefined) {
    this.#size = size;
    this.#reuseAfter = reuseAfter;
    this.#given = given;
    this.#block = Buffer.allocUnsafeSlow(size);
  }

  /** Copies bytes; yields the blocks that became full. */
  *write(bytes: Uint8Array): Generator<Buffer, void, undefined> {
    for (let taken = 0; taken < bytes.length;) {
      const block = this.#current();
      const part = bytes.subarray(taken, taken + block.length - this.#used);
      copyBytes(part, block, this.#used);
      taken += part.length;
      const full = this.advance(part.length);
      if (full !== undefined) yield full;
    }
  }

  /** Copies bytes where that fills no block. @returns whether it did; else {@link write} has to */
  writeWithin(bytes: Uint8Array): boolean {
    const block = this.#current();
    if (bytes.length >= block.length - this.#used) return false;
    copyBytes(bytes, block, this.#used);
    this.#used += bytes.length;
    return true;
  }

  /** Free space for at most `size` bytes; {@link advance} tells how many were put there. */
  room(size: number): Buffer {
    return this.#current().subarray(this.#used, this.#used + size);
  }

  /** Takes what was put into {@link room}. @returns the block, if it is full now */
  advance(size: number): Buffer | undefined {
    this.#used += size;
    this.#full = this.#used === this.#block.length;
    return this.#full ? this.#block : undefined;
  }

  /** The last block, unless it would be empty. */
  *finish(): Generator<Buffer, void, undefined> {
    if (this.#used > 0 && !this.#full) yield this.#block.subarray(0, this.#used);
  }

  #current(): Buffer {
    if (!this.#full) return this.#block;
    this.#full = false;
    this.#used = 0;
    if (this.#reuseAfter > 0 && this.#own) this.#handedOver.push(this.#block);
    const given = this.#given();
    this.#own = given === undefined;
    const oldest = this.#own && this.#handedOver.length > this.#reuseAfter ? this.#handedOver.shift() : undefined;
    this.#block = given ?? oldest ?? Buffer.allocUnsafeSlow(this.#size);
    return this.#block;
  }
}

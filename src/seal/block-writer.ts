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
      const part = bytes.subarray(taken, taken + this.#block.length - this.#used);
      copyBytes(part, this.#block, this.#used);
      taken += part.length;
      yield* this.advance(part.length);
    }
  }

  /** Free space for at most `size` bytes; {@link advance} tells how many were put there. */
  room(size: number): Buffer {
    return this.#block.subarray(this.#used, this.#used + size);
  }

  /** Takes what was put into {@link room}. */
  *advance(size: number): Generator<Buffer, void, undefined> {
    this.#used += size;
    if (this.#used === this.#block.length) {
      yield this.#block;
      this.#block = this.#next(this.#block);
      this.#used = 0;
    }
  }

  /** The last block, unless it would be empty. */
  *finish(): Generator<Buffer, void, undefined> {
    if (this.#used > 0) yield this.#block.subarray(0, this.#used);
  }

  #next(full: Buffer): Buffer {
    if (this.#reuseAfter > 0 && this.#own) this.#handedOver.push(full);
    const given = this.#given();
    this.#own = given === undefined;
    if (given !== undefined) return given;
    const oldest = this.#handedOver.length > this.#reuseAfter ? this.#handedOver.shift() : undefined;
    return oldest ?? Buffer.allocUnsafeSlow(this.#size);
  }
}

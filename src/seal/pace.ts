/** How fast blocks of bytes have passed lately. */
export class Pace {
  readonly #now: () => number;
  /** The last blocks, the oldest first, and how long each was waited for, in milliseconds. */
  readonly #passed: { wait: number; bytes: number }[] = [];
  #last: number | undefined;

  /** @param now a clock, in milliseconds */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Counts bytes that passed just now. */
  count(bytes: number): void {
    const time = this.#now();
    if (this.#last !== undefined) this.#passed.push({ wait: time - this.#last, bytes });
    this.#last = time;
    if (this.#passed.length > window) this.#passed.shift();
  }

  /**
   * In MB/s, over the last blocks but the one that took longest: a connection that is being made, or a moment in which the machine does
   * something else, is no slow network. Unlimited before there were that many.
   */
  get rate(): number {
    if (this.#passed.length < window) return Infinity;
    const counted = this.#passed.toSorted((a, b) => a.wait - b.wait).slice(0, -1);
    const [bytes, wait] = counted.reduce(([bytes, wait], block) => [bytes + block.bytes, wait + block.wait], [0, 0]);
    return bytes / 1000 / wait;
  }
}

/** Blocks that are looked back at. */
const window = 16;

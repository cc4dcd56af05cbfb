/** How fast blocks of bytes have passed lately. */
export class Pace {
  readonly #now: () => number;
  readonly #passed: { time: number; bytes: number }[] = [];
  #bytes = 0;

  /** @param now a clock, in milliseconds */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Counts bytes that passed just now. */
  count(bytes: number): void {
    this.#passed.push({ time: this.#now(), bytes });
    this.#bytes += bytes;
    if (this.#passed.length > window) this.#bytes -= this.#passed.shift()?.bytes ?? 0;
  }

  /** In MB/s, over the last blocks; unlimited before there were that many. */
  get rate(): number {
    const [oldest] = this.#passed;
    const newest = this.#passed.at(-1);
    if (oldest === undefined || newest === undefined || this.#passed.length < window) return Infinity;
    return (this.#bytes - oldest.bytes) / 1000 / (newest.time - oldest.time);
  }
}

/**
 * Blocks that are looked back at: so many that a moment in which nothing leaves, such as that of connecting, is no slow network. They
 * leave in bursts of up to sixteen, since an upload gives back what it has of a segment at once.
 */
const window = 64;

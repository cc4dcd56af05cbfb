/** Round trips that are measured at most, for a site that never answers alike. */
const mostPings = 6;

/** Two that differ by no more than this tell of the way: milliseconds, or a share of the shorter one. */
const alike = { milliseconds: 2, share: 0.25 };

/**
 * How far away a site is, by pings one after the other. One alone does not tell: a machine that is busy for a moment, this one or the
 * site's, makes it look far away, and everything is as near as its nearest answer.
 */
export class RoundTrip {
  readonly #pings: number[] = [];

  /** One more ping has taken so many milliseconds. */
  add(milliseconds: number): void {
    this.#pings.push(milliseconds);
    this.#pings.sort((a, b) => a - b);
  }

  /** The shortest one, in milliseconds. */
  get milliseconds(): number {
    return this.#pings[0] ?? Infinity;
  }

  /** Whether the two shortest are alike, or there were enough of them. */
  get known(): boolean {
    const [first, second] = this.#pings;
    if (first === undefined || second === undefined) return false;
    return second - first <= Math.max(alike.milliseconds, first * alike.share) || this.#pings.length >= mostPings;
  }
}

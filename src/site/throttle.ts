import { setTimeout as sleep } from 'node:timers/promises';

/** Lets bytes pass at a rate, evenly. */
export class Throttle {
  readonly #rate: number | undefined;
  /** When the bytes that passed so far would have passed at the rate: milliseconds since 1970. */
  #due = 0;

  /** @param rate bytes per second; without one nothing is held back */
  constructor(rate: number | undefined) {
    this.#rate = rate;
  }

  /** Returns when `bytes` more may pass. Several callers share the rate. */
  async pass(bytes: number, signal?: AbortSignal): Promise<void> {
    if (this.#rate === undefined) return;
    const now = Date.now();
    const start = Math.max(this.#due, now);
    this.#due = start + (bytes / this.#rate) * 1000;
    if (start > now) await sleep(start - now, undefined, { signal });
  }
}

import { setTimeout as sleep } from 'node:timers/promises';
import { HpcsError } from '../errors.ts';
import type { Metrics } from './metrics.ts';

/** What `/readyz` answers: `ok`, or why not, of each part. */
export interface Readiness {
  ready: boolean;
  /** Part → `ok`, or the code of what is wrong with it. */
  parts: Record<string, string>;
}

/** An answer is good for this long, so that nobody can keep SPIRE and the vault busy by asking, in milliseconds. */
const freshness = 1000;
/** A part that does not answer counts as down after this long, in milliseconds: callers of `/readyz` wait a few seconds at most. */
const patience = 3000;

/** Whether this server can do its work: what it needs answers, and it is not about to end. */
export class Health {
  readonly #probes: Readonly<Record<string, () => Promise<unknown>>>;
  readonly #metrics: Metrics | undefined;
  #parts: Promise<Record<string, string>> | undefined;
  #until = 0;
  #ending = false;

  /** @param probes each part that this server needs, and a check that rejects when it is down */
  constructor(probes: Readonly<Record<string, () => Promise<unknown>>>, metrics?: Metrics) {
    this.#probes = probes;
    this.#metrics = metrics;
  }

  /** From now on this server is not ready: a balancer shall send nobody here any more. */
  end(): void {
    this.#ending = true;
  }

  /** Looks at every part, or remembers what it saw a moment ago. */
  async readiness(): Promise<Readiness> {
    if (this.#parts === undefined || performance.now() > this.#until) this.#parts = this.#look();
    const parts = await this.#parts;
    if (this.#ending) return { ready: false, parts: { ...parts, server: 'ending' } };
    return { ready: Object.values(parts).every((state) => state === 'ok'), parts };
  }

  async #look(): Promise<Record<string, string>> {
    this.#until = Number.POSITIVE_INFINITY;
    const states = await Promise.all(
      Object.entries(this.#probes).map(async ([part, probe]): Promise<[string, string]> => {
        const state = await stateOf(probe);
        this.#metrics?.partUp.set({ part }, state === 'ok' ? 1 : 0);
        return [part, state];
      }),
    );
    this.#until = performance.now() + freshness;
    return Object.fromEntries(states);
  }
}

async function stateOf(probe: () => Promise<unknown>): Promise<string> {
  const late = new AbortController();
  const found = probe().then(
    () => 'ok',
    (error: unknown) => (error instanceof HpcsError ? error.code : 'failed'),
  );
  const timeout = sleep(patience, 'no-answer', { signal: late.signal }).catch(() => 'no-answer');
  return Promise.race([found, timeout]).finally(() => late.abort());
}

import { AsyncLocalStorage } from 'node:async_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { HpcsError } from '../errors.ts';

/** What a round of chores does its work under: says when the server ends. */
const current = new AsyncLocalStorage<AbortSignal>();

/** What failures say where no other record would fare better. */
const away: ReadonlySet<string> = new Set(['unreachable', 'untrusted-server', 'identity-unavailable', 'vault-sealed']);

/** Whether an error says that the vault cannot be asked at present, whatever about. */
export function isVaultAway(error: unknown): boolean {
  return error instanceof HpcsError && away.has(error.code);
}

/** Ends a chore between two records where the server ends; what is done for a caller goes on. @throws HpcsError `interrupted` */
export function assertChoreGoesOn(): void {
  if (current.getStore()?.aborted) throw new HpcsError('interrupted', 'ending', 'the server ends');
}

/** When {@link Chores} are done, in milliseconds. */
export interface ChoreTimes {
  /** From the beginning of one round to that of the next. */
  interval: number;
  /** How long the end waits for a request that nobody answers. */
  grace: number;
}

const usual: ChoreTimes = { interval: 60_000, grace: 5000 };

/**
 * Does chores now and then, one after the other, until disposed of. A round that is not over when its next is due is that one, too; one
 * that finds the vault away is over.
 */
export class Chores implements AsyncDisposable {
  readonly #chores: readonly (() => Promise<void>)[];
  readonly #failed: (error: unknown) => void;
  readonly #times: ChoreTimes;
  readonly #ending = new AbortController();
  readonly #timer: NodeJS.Timeout;
  #running: Promise<void> | undefined;

  /** @param failed told of each chore that failed */
  constructor(chores: readonly (() => Promise<void>)[], failed: (error: unknown) => void, times: ChoreTimes = usual) {
    this.#chores = chores;
    this.#failed = failed;
    this.#times = times;
    this.#timer = setInterval(() => {
      this.#running ??= current.run(this.#ending.signal, () => this.#round()).finally(() => (this.#running = undefined));
    }, times.interval);
  }

  async #round(): Promise<void> {
    for (const chore of this.#chores) {
      if (this.#ending.signal.aborted) return;
      try {
        await chore();
      } catch (error) {
        if (this.#ending.signal.aborted) return;
        this.#failed(error);
        if (isVaultAway(error)) return;
      }
    }
  }

  /** Waits for the request under way, but not for long: what it leaves, the next round finds, here or at another server. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    this.#ending.abort();
    const waited = new AbortController();
    const late = sleep(this.#times.grace, undefined, { signal: waited.signal }).catch(() => undefined);
    await Promise.race([this.#running, late]);
    waited.abort();
  }
}

import { messageOf } from '../errors.ts';
import { pause } from '../pause.ts';
import { isCut } from './ssh-errors.ts';

/** Milliseconds between two tries: twice as long each time. */
const waits = { first: 250, longest: 10_000 };

/** How long a lost connection is tried again. */
export interface PatienceOptions {
  /** Seconds. Default 0: not at all. */
  patience?: number | undefined;
  signal?: AbortSignal | undefined;
  /** Told, with one line for people, of a lost connection. */
  warn?: ((message: string) => void) | undefined;
}

/** Bears with a connection that is lost, for so long from when it was. */
export class Patience {
  readonly #options: PatienceOptions;
  /** When the connection was lost, while it is. */
  #cutAt: number | undefined;
  #wait = waits.first;

  constructor(options: PatienceOptions) {
    this.#options = options;
  }

  /** Waits before another try. @throws what failed, where that was no cut or there were enough tries; the signal's reason */
  async bear(failure: unknown): Promise<void> {
    const { patience = 0, signal, warn } = this.#options;
    if (this.#cutAt === undefined) this.#wait = waits.first;
    this.#cutAt ??= Date.now();
    if (!isCut(failure) || Date.now() - this.#cutAt >= patience * 1000) throw failure;
    warn?.(`${messageOf(failure)}; trying for ${patience} s to go on where it stopped`);
    await pause(this.#wait, signal);
    this.#wait = Math.min(2 * this.#wait, waits.longest);
  }

  /** The connection is there again. */
  renew(): void {
    this.#cutAt = undefined;
  }
}

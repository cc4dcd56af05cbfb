import { HpcsError } from '../errors.ts';
import { Serial } from './serial.ts';
import { eachOf, type Store } from './store.ts';

/** A job that is registered, and whose ticket has not come yet. */
export interface WaitingJob {
  client: string;
  /** SHA-256 of its ticket, in hex. */
  hash: string;
  /** RFC 3339. */
  expires: string;
}

/**
 * The jobs of each client that wait for their keys, of which there may be so many: each is remembered for days. They lie side by
 * side under the client, with their ends in their names, so that one list counts them.
 */
export class Waiting {
  readonly #store: Store;
  readonly #most: number;
  readonly #serial = new Serial();

  /** @param most of one client; servers that are asked at the same moment may each let one more in */
  constructor(store: Store, most: number) {
    this.#store = store;
    this.#most = most;
  }

  /**
   * Counts a job that is about to be registered.
   *
   * @returns what counts it no more, where it cannot be registered
   * @throws HpcsError `identity` with code `too-many-jobs`
   */
  async add(job: WaitingJob): Promise<() => Promise<void>> {
    return this.#serial.run(job.client, async () => {
      const waiting = (await this.#store.list(`waiting/${job.client}`)).filter((name) => !isOver(name));
      if (waiting.length >= this.#most) {
        throw new HpcsError(
          'identity',
          'too-many-jobs',
          `${waiting.length} jobs of client ${job.client} wait for their keys, and there may be no more than ${this.#most}: end some of them, or wait until they have started`,
        );
      }
      // Where there is such a record, it is that of a job that is registered already.
      const mine = await this.#store.write(pathOf(job), {}, 0);
      return async () => {
        if (mine) await this.remove(job);
      };
    });
  }

  /** Counts a job no more. @throws HpcsError `identity` */
  async remove(job: WaitingJob): Promise<void> {
    await this.#store.remove(pathOf(job));
  }

  /** Forgets jobs that servers left which died over their registration. @throws HpcsError `identity` */
  async tidy(): Promise<void> {
    await eachOf(await this.#store.directories('waiting'), async (client) => {
      const place = `waiting/${client}`;
      const over = (await this.#store.list(place)).filter(isOver);
      await eachOf(over, (name) => this.#store.remove(`${place}/${name}`), 1);
    });
  }
}

function pathOf({ client, hash, expires }: WaitingJob): string {
  return `waiting/${client}/${Math.ceil(new Date(expires).getTime() / 1000)}-${hash}`;
}

function isOver(name: string): boolean {
  return Number(name.split('-')[0]) * 1000 < Date.now();
}

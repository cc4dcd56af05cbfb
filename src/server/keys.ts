import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { eachOf, hourOf, type Store, type Stored } from './store.ts';

const keyRecord = z.strictObject({
  /** Client id. */
  client: z.string(),
  created: z.string(),
  /** End of the session of a key that came with a login; an enrolled one has none. */
  expires: z.iso.datetime().optional(),
  /** End of the last token that a key came with at a login. */
  token: z.iso.datetime().optional(),
  /**
   * `out`: its session was ended before its time; remembered until no token is taken any more that could begin another. `revoked`: by
   * an administrator; remembered for ever.
   */
  ended: z.enum(['out', 'revoked']).optional(),
});
type KeyRecord = z.output<typeof keyRecord>;

/** A key that counts. */
export interface Key {
  client: string;
  /** When its session ends; an enrolled key has none. */
  expires: Date | undefined;
}

/** What a key came with at a login. */
export interface Admittance {
  client: string;
  /** End of the session. */
  expires: Date;
  /** End of the token. */
  token: Date;
}

/** Tokens are taken for a while after their end, as the clocks of their issuers differ; in milliseconds. More than `leeway` can be. */
const leeway = 600_000;

/**
 * Whose the keys are that clients prove possession of, by their thumbprints (RFC 7638). An enrolled key counts until it is revoked;
 * one that came with a login, until its session ends. One that was ended by somebody is remembered, so that nothing it came with brings
 * it back.
 */
export class Keys {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** A key that counts, or whose session is over by the clock. @throws HpcsError `identity` */
  async find(thumbprint: string): Promise<Key | undefined> {
    const found = (await this.#read(thumbprint))?.value;
    if (found === undefined || found.ended !== undefined) return undefined;
    return { client: found.client, expires: found.expires === undefined ? undefined : new Date(found.expires) };
  }

  /** Makes sure that a key was not ended by somebody. @throws HpcsError `identity`, code `key-ended` */
  async assertNotEnded(thumbprint: string): Promise<void> {
    if ((await this.#read(thumbprint))?.value.ended !== undefined) throw ended();
  }

  /** Makes sure that a key can be enrolled. @throws HpcsError `identity`, code `key-ended` for an ended one, `key-conflict` for a login's */
  async assertEnrollable(thumbprint: string): Promise<void> {
    const found = (await this.#read(thumbprint))?.value;
    if (found?.ended !== undefined) throw ended();
    if (found?.expires !== undefined)
      throw new HpcsError('identity', 'key-conflict', 'this key came with a login: enrol a new one');
  }

  /** Takes a key for a client's, if it is nobody's yet. @throws HpcsError `identity` */
  async enrol(client: string, thumbprint: string): Promise<void> {
    await this.#store.write(pathOf(thumbprint), { client, created: new Date().toISOString() }, 0);
  }

  /**
   * Makes a key one of a client's until a time. The same client may come with the same key again, which then counts longer.
   *
   * @throws HpcsError `identity`, with code `key-conflict` for a key that is another client's, or was enrolled; `key-ended` for one that was
   * logged out or revoked
   */
  async admit(thumbprint: string, { client, expires, token }: Admittance): Promise<void> {
    for (;;) {
      const found = await this.#read(thumbprint);
      if (found?.value.ended !== undefined) throw ended();
      if (found !== undefined && (found.value.client !== client || found.value.expires === undefined))
        throw new HpcsError('identity', 'key-conflict', "this key is another client's, or was enrolled: log in with a new one");
      const record: KeyRecord = {
        client,
        created: new Date().toISOString(),
        expires: expires.toISOString(),
        token: new Date(Math.max(token.getTime(), timeOf(found?.value.token))).toISOString(),
      };
      // First, so that no key stays that nothing would remove.
      await this.#store.write(`sessions/${hourOf(new Date(kept(record)))}/${thumbprint}`, {}, 0);
      if (await this.#store.write(pathOf(thumbprint), record, found?.version ?? 0)) return;
    }
  }

  /** Ends the session of a key; no token that it came with begins another. An enrolled key stays. @throws HpcsError `identity` */
  async dismiss(thumbprint: string): Promise<void> {
    await this.#change(thumbprint, (key) =>
      key.expires === undefined || key.ended !== undefined ? key : { ...key, ended: 'out' },
    );
  }

  /**
   * Revokes a key for good: what it signs counts no more, and nothing makes it count again.
   *
   * @returns whose it was; undefined for nobody's, and for one that was revoked before
   * @throws HpcsError `identity`
   */
  async revoke(thumbprint: string): Promise<string | undefined> {
    const before = await this.#change(thumbprint, (key) => ({ ...key, ended: 'revoked' }));
    return before?.ended === 'revoked' ? undefined : before?.client;
  }

  /**
   * Forgets the keys of a client that was removed, but for those that were revoked. Records of unknown forms, which count for nobody, keep
   * no other from that.
   *
   * @throws HpcsError `identity`
   */
  async removeOf(client: string): Promise<void> {
    await eachOf(await this.#store.list('keys'), async (thumbprint) => {
      const found = (await this.#store.readKnown(pathOf(thumbprint), keyRecord, () => undefined))?.value;
      if (found?.client === client && found.ended !== 'revoked') await this.#store.remove(pathOf(thumbprint));
    });
  }

  /**
   * The keys that were not ended, with their clients.
   *
   * @param unknown told of each record of an unknown form
   * @throws HpcsError `identity`
   */
  async all(unknown: (error: HpcsError) => void): Promise<{ thumbprint: string; client: string }[]> {
    const keys: { thumbprint: string; client: string }[] = [];
    for (const thumbprint of await this.#store.list('keys')) {
      const found = (await this.#store.readKnown(pathOf(thumbprint), keyRecord, unknown))?.value;
      if (found !== undefined && found.ended === undefined) keys.push({ thumbprint, client: found.client });
    }
    return keys;
  }

  /** Forgets the keys whose sessions are over, and which no token brings back. @throws HpcsError `identity` */
  async tidy(): Promise<void> {
    const hours = await this.#store.directories('sessions');
    const forget = async (hour: string): Promise<void> => {
      await eachOf(await this.#store.list(`sessions/${hour}`), async (thumbprint) => {
        const found = (await this.#read(thumbprint))?.value;
        if (found?.expires !== undefined && found.ended !== 'revoked' && kept(found) <= Date.now())
          await this.#store.remove(pathOf(thumbprint));
        await this.#store.remove(`sessions/${hour}/${thumbprint}`);
      });
    };
    await eachOf(
      hours.filter((hour) => Number(hour) < hourOf(new Date())),
      forget,
      1,
    );
  }

  #read(thumbprint: string): Promise<Stored<KeyRecord> | undefined> {
    return this.#store.read(pathOf(thumbprint), keyRecord);
  }

  /** @returns the record as it was before */
  async #change(thumbprint: string, change: (key: KeyRecord) => KeyRecord): Promise<KeyRecord | undefined> {
    for (;;) {
      const found = await this.#read(thumbprint);
      if (found === undefined) return undefined;
      const changed = change(found.value);
      if (changed === found.value || (await this.#store.write(pathOf(thumbprint), changed, found.version))) return found.value;
    }
  }
}

/** Until when a key that came with a login is remembered, in milliseconds. */
function kept({ expires, token }: KeyRecord): number {
  return Math.max(timeOf(expires), timeOf(token) + leeway);
}

function timeOf(time: string | undefined): number {
  return time === undefined ? 0 : new Date(time).getTime();
}

function pathOf(thumbprint: string): string {
  return `keys/${thumbprint}`;
}

function ended(): HpcsError {
  return new HpcsError('identity', 'key-ended', 'this key was logged out, or revoked: it counts no more, come with a new one');
}

import { randomBytes } from 'node:crypto';
import { Encrypter } from 'age-encryption';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { formatSpiffeId, spiffeIds } from '../identity/spiffe-id.ts';
import { ticketHash, type Ticket } from '../job/ticket.ts';
import type { Asking } from './conditions.ts';
import { parseSecretPath, type JobBody } from './bodies.ts';
import type { Permissions, SecretPath } from './permissions.ts';
import type { Spire } from './spire.ts';
import { eachOf, type Store, type Stored } from './store.ts';
import type { VaultAdmin } from './vault-admin.ts';
import { Waiting } from './waiting.ts';

const role = z.enum(['image', 'data', 'job']);
const jobRecord = z.strictObject({
  /** Client id of the submitter. */
  client: z.string(),
  /** The scheduler's job id. */
  job: z.string(),
  /** The job in its SPIFFE ID: job ids repeat, over sites and years. */
  handle: z.string(),
  artefacts: z.array(z.strictObject({ role, secret_path: z.string(), sha512: z.string().optional() })),
  /**
   * `waiting` for the job, `bound` to its key, `used`: no longer answered, `revoked`: it came with a second key, `ended` before it came:
   * about to be removed.
   */
  state: z.enum(['waiting', 'bound', 'used', 'revoked', 'ended']),
  /** The job's age recipient. */
  key: z.string().nullable(),
  bound: z.string().nullable(),
  /** Names of the readings that were begun: should a server die over one, its role, policy and entity are found by it. */
  readings: z.array(z.string()),
  expires: z.iso.datetime(),
  /** Whether its submitter redeems the ticket for it. */
  connected: z.boolean().default(false),
});
type JobRecord = z.output<typeof jobRecord>;

const digested = z.object({ sha512: z.string() });

/** What a job that shows its ticket says. */
export interface Redemption extends Ticket {
  /** The scheduler's job id, as the job sees it. */
  job: string;
  /** The job's age recipient (X25519), made in its memory. */
  key: string;
}

/** What happened, for the audit log: no secrets. */
export type AuditEvent = (
  level: 'info' | 'warn' | 'error',
  what: string,
  details: Record<string, string | number | readonly string[]>,
) => void;

/** What {@link Jobs} works with. */
export interface JobsOptions {
  trustDomain: string;
  /** Audience of the vault. */
  audience: string;
  audit: AuditEvent;
  /** So many jobs of one client may wait for their keys. */
  mostWaiting: number;
}

/** The job's own key may come again for this long after it came first, since an answer can be lost; in milliseconds. */
const repeatable = 15 * 60_000;
/** Lifetime of the token a job's records are read with, in seconds. */
const readingTime = 60;
/** So often the job's own key may come. */
const mostReadings = 50;

/**
 * Identities of single jobs: `/c/<client>/j/<job>`. A job is registered by its submitter with the hash of a ticket; whoever shows the
 * ticket first, binds it to a key of his and gets the records of exactly its artefacts, sealed to that key. What lets them be read
 * exists only while they are.
 */
export class Jobs {
  readonly #store: Store;
  readonly #spire: Spire;
  readonly #vault: VaultAdmin;
  readonly #permissions: Permissions;
  readonly #options: JobsOptions;
  readonly #waiting: Waiting;

  constructor(store: Store, spire: Spire, vault: VaultAdmin, permissions: Permissions, options: JobsOptions) {
    this.#store = store;
    this.#spire = spire;
    this.#vault = vault;
    this.#permissions = permissions;
    this.#options = options;
    this.#waiting = new Waiting(store, options.mostWaiting);
  }

  /**
   * Registers a submitted job of a client.
   *
   * @returns its SPIFFE ID
   * @throws HpcsError `identity`; code `forbidden` naming an artefact that the client may not use, `conflict` for a known ticket,
   * `too-many-jobs` for one more than may wait
   */
  async register(client: string, body: JobBody): Promise<{ spiffeId: string; expires: string }> {
    const handle = `${body.job}-${randomBytes(8).toString('hex')}`;
    const expires = new Date(Date.now() + body.lifetime * 1000).toISOString();
    const { job, ticket, artefacts, connected } = body;
    const unused = { state: 'waiting', key: null, bound: null } as const;
    const record: JobRecord = { client, job, handle, artefacts, ...unused, readings: [], expires, connected };
    const asking = askingOf(record);
    for (const artefact of artefacts) await this.#permissions.check(client, pathFor(client, artefact), asking);
    const uncount = await this.#waiting.add({ client, hash: ticket, expires });
    try {
      if (!(await this.#store.write(recordOf(ticket), record, 0)))
        throw new HpcsError('identity', 'conflict', 'a job with this ticket is registered already');
    } catch (error) {
      // Where it was written after all, and only the answer is lost, one more than that may wait: better than one that never ends.
      await uncount().catch(() => undefined);
      throw error;
    }
    // Counted once there is a record that gives it back when the job gets nothing. What a server that dies here did not count,
    // is counted when the job comes for its keys.
    try {
      await this.#take(record);
    } catch (error) {
      await this.#close(ticket, client).catch(() => undefined);
      throw error;
    }
    return { spiffeId: formatSpiffeId(spiffeIds.job(this.#options.trustDomain, client, handle)), expires };
  }

  /**
   * Trades a ticket for the records of its job.
   *
   * @param caller the client that proved this call, if any: the ticket of a connected job is its submitter's to redeem
   * @returns the records by their roles, as JSON sealed to the job's key (age-encryption.org/v1)
   * @throws HpcsError `identity`; `unauthenticated` for a ticket that is not known or no longer valid, `forbidden` for one that
   * came with another job's id or a second key, which revokes it, `record-mismatch` where the vault has other artefacts
   */
  async redeem(redemption: Redemption, caller?: string): Promise<Uint8Array> {
    const hash = ticketHash(redemption);
    const { record, reading } = await this.#bind(hash, redemption, caller);
    const records = await this.#read(record, reading);
    // While they were read, a grant may have been taken back, the job ended, or a second key come.
    await this.#take(record);
    const now = (await this.#store.read(recordOf(hash), jobRecord))?.value;
    if (now?.state === 'revoked') throw this.#revoked(record);
    if (now?.state !== 'bound' || now.key !== redemption.key) throw unauthenticated('its job has ended');
    this.#audit('info', 'job got its keys', record);
    return seal(records, redemption.key);
  }

  /**
   * Ends what a job may do and destroys its own secret. A job that is not known counts as ended.
   *
   * @returns whether its ticket had come with two keys, and whether it had come at all
   * @throws HpcsError `identity`; code `forbidden` for a job of somebody else
   */
  async end(client: string, hash: string): Promise<{ stolen: boolean; redeemed: boolean }> {
    const closed = await this.#close(hash, client);
    if (closed === undefined) return { stolen: false, redeemed: false };
    this.#audit('info', 'job ended', closed);
    return { stolen: closed.state === 'revoked', redeemed: closed.state !== 'ended' };
  }

  /** Removes what expired, and what jobs no longer need. @throws HpcsError `identity` */
  async tidy(): Promise<void> {
    try {
      await eachOf(await this.#store.directories('jobs'), async (directory) => {
        const shard = `jobs/${directory}`;
        await eachOf(await this.#store.list(shard), (hash) => this.#tidyOne(hash), 1);
      });
    } finally {
      await this.#waiting.tidy();
    }
  }

  async #tidyOne(hash: string): Promise<void> {
    const found = await this.#store.read(recordOf(hash), jobRecord);
    if (found === undefined) return;
    const { value, version } = found;
    if (value.state === 'ended' || new Date(value.expires) < new Date()) {
      const closed = await this.#close(hash, value.client);
      if (closed !== undefined) this.#audit('info', 'job expired', closed);
    } else if (value.state === 'bound' && isPast(value)) {
      // What is left lets a second key be noticed.
      if (await this.#store.write(recordOf(hash), { ...value, state: 'used' }, version)) await this.#takeBack(value);
    }
  }

  /** Removes a job's record and all that hangs on it. @returns the record as it ended @throws HpcsError code `forbidden` */
  async #close(hash: string, client: string): Promise<JobRecord | undefined> {
    for (;;) {
      const found: Stored<JobRecord> | undefined = await this.#store.read(recordOf(hash), jobRecord);
      if (found === undefined) return undefined;
      if (found.value.client !== client) throw new HpcsError('identity', 'forbidden', 'this job is not yours');
      let record = found.value;
      if (record.state === 'waiting') {
        record = { ...record, state: 'ended' };
        // By compare-and-set: a job that comes for its keys now is either too late, or counts.
        if (!(await this.#store.write(recordOf(hash), record, found.version))) continue;
      }
      await this.#takeBack(record);
      // Even of one that came for its keys: what was not counted down then is now.
      await this.#waiting.remove({ ...record, hash });
      if (record.state === 'ended') {
        for (const { secret_path } of record.artefacts)
          await this.#permissions.giveBack(parseSecretPath(secret_path), record.handle);
      }
      await this.#store.remove(recordOf(hash));
      return record;
    }
  }

  /** Binds the ticket to the key that it first comes with, and notes that its records are about to be read: by compare-and-set. */
  async #bind(
    hash: string,
    { job, key }: Redemption,
    caller: string | undefined,
  ): Promise<{ record: JobRecord; reading: string }> {
    for (;;) {
      const found: Stored<JobRecord> | undefined = await this.#store.read(recordOf(hash), jobRecord);
      if (found === undefined || found.value.state === 'ended' || new Date(found.value.expires) < new Date()) {
        this.#options.audit('warn', 'unknown ticket', { job });
        throw unauthenticated('it is not known: it was never registered, has expired, or its job has ended');
      }
      const { value, version } = found;
      if (value.job !== job) {
        this.#audit('error', 'ticket of another job', value, { shown: job });
        throw new HpcsError('identity', 'forbidden', 'the ticket is that of another job');
      }
      if (value.connected && value.client !== caller) {
        this.#audit('error', 'ticket of a connected job without its client', value);
        throw new HpcsError('identity', 'forbidden', 'the ticket of this job opens nothing without a proof of its submitter');
      }
      if (value.state === 'revoked') throw this.#revoked(value);
      if (value.state === 'waiting' || value.key === key) {
        if (value.state === 'used' || isPast(value) || value.readings.length >= mostReadings)
          throw unauthenticated('it was used');
        const reading = randomBytes(8).toString('hex');
        const bound = value.bound ?? new Date().toISOString();
        const record: JobRecord = { ...value, state: 'bound', key, bound, readings: [...value.readings, reading] };
        if (!(await this.#store.write(recordOf(hash), record, version))) continue;
        // What is not counted down now is when it expires: the job's keys matter more.
        if (value.state === 'waiting') await this.#waiting.remove({ ...record, hash }).catch(() => undefined);
        return { record, reading };
      } else if (await this.#store.write(recordOf(hash), { ...value, state: 'revoked' }, version)) {
        await this.#takeBack(value);
        throw this.#revoked(value, key);
      }
    }
  }

  /** Reads the records as the job: with an identity, a role and a policy that are gone when this returns. */
  async #read(record: JobRecord, reading: string): Promise<Record<string, unknown>> {
    const { imageBound } = await this.#take(record);
    const { trustDomain, audience } = this.#options;
    const subject = spiffeIds.jobReading(trustDomain, record.client, record.handle, reading);
    const paths = record.artefacts.map((artefact) => artefact.secret_path);
    using jwt = await this.#spire.mintJwtSvid(subject, [audience], readingTime);
    const contents = await this.#vault.readAs({ name: roleOf(reading), subject, paths, lifetime: readingTime }, jwt);
    for (const [index, { role, sha512 }] of record.artefacts.entries()) {
      const stored = digested.safeParse(contents[index]).data?.sha512;
      // What the original prepared has no digest here; the job knows of such, and takes them only where it was told to. A grant
      // that is for one image is for none of these.
      if (sha512 === stored && sha512 !== undefined) continue;
      if ((sha512 === undefined || stored === undefined) && !(role === 'image' && imageBound)) continue;
      throw mismatch(`the ${role} is not the one that the job was registered with: its SHA-512 is another`);
    }
    return Object.fromEntries(record.artefacts.map(({ role }, index) => [role, contents[index]]));
  }

  /** Makes sure that the submitter may use each artefact now, and counts the job where an owner counts. */
  async #take(record: JobRecord): Promise<{ imageBound: boolean }> {
    const asking = askingOf(record);
    let imageBound = false;
    for (const artefact of record.artefacts) {
      const taken = await this.#permissions.take(record.client, pathFor(record.client, artefact), asking);
      imageBound ||= taken.imageBound;
    }
    return { imageBound };
  }

  /** Removes roles and policies, should a server have died between making and removing them, and destroys the job's own secret. */
  async #takeBack(record: JobRecord): Promise<void> {
    for (const reading of record.readings) {
      await this.#vault.removeRole(roleOf(reading));
      await this.#vault.forget(spiffeIds.jobReading(this.#options.trustDomain, record.client, record.handle, reading));
    }
    for (const { role, secret_path } of record.artefacts) {
      if (role !== 'job') continue;
      await this.#vault.destroy(secret_path);
      await this.#permissions.forget(parseSecretPath(secret_path));
    }
  }

  #revoked(record: JobRecord, second?: string): HpcsError {
    // The alarm: somebody had both halves who is not the job, or was not.
    if (second !== undefined) this.#audit('error', 'ticket came with a second key: revoked', record, { second });
    return new HpcsError('identity', 'forbidden', 'the ticket came with two different keys: somebody else had it, it is revoked');
  }

  #audit(level: 'info' | 'warn' | 'error', what: string, record: JobRecord, more: Record<string, string> = {}): void {
    const { client, job, handle, key } = record;
    const secrets = record.artefacts.map((artefact) => artefact.secret_path);
    this.#options.audit(level, what, { client, job, handle, secrets, ...(key === null ? {} : { key }), ...more });
  }
}

function isPast(record: JobRecord): boolean {
  return record.bound !== null && Date.now() - new Date(record.bound).getTime() > repeatable;
}

// Of lower-case letters and digits, which the vault keeps as they are.
function roleOf(reading: string): string {
  return `job_${reading}`;
}

// Spread over directories: one answer lists each.
function recordOf(hash: string): string {
  return `jobs/${hash.slice(0, 2)}/${hash}`;
}

// The submitter chooses the ticket, and may choose one again; the handle is ours.
function askingOf({ handle, artefacts }: JobRecord): Asking {
  return { handle, image: artefacts.find(({ role }) => role === 'image')?.sha512 };
}

/** @throws HpcsError code `forbidden` for somebody else's secret in place of the job's own */
function pathFor(client: string, artefact: JobRecord['artefacts'][number]): SecretPath {
  const path = parseSecretPath(artefact.secret_path);
  if (artefact.role === 'job' && path.owner !== client)
    throw new HpcsError('identity', 'forbidden', 'a job has a secret of its submitter alone');
  return path;
}

async function seal(records: Record<string, unknown>, recipient: string): Promise<Uint8Array> {
  const encrypter = new Encrypter();
  encrypter.addRecipient(recipient);
  return encrypter.encrypt(JSON.stringify(records));
}

function mismatch(what: string): HpcsError {
  return new HpcsError('integrity', 'record-mismatch', what);
}

function unauthenticated(what: string): HpcsError {
  return new HpcsError('identity', 'unauthenticated', `the ticket is not valid: ${what}`);
}

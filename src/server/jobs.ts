import { randomBytes } from 'node:crypto';
import { Encrypter } from 'age-encryption';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { formatSpiffeId, spiffeIds } from '../identity/spiffe-id.ts';
import { ticketHash, type Ticket } from '../job/ticket.ts';
import { parseSecretPath, type JobBody } from './names.ts';
import type { Permissions } from './permissions.ts';
import { Serial } from './serial.ts';
import type { Spire } from './spire.ts';
import { eachOf, type Store, type Stored } from './store.ts';
import type { VaultAdmin } from './vault-admin.ts';

const role = z.enum(['image', 'data', 'job']);
const jobRecord = z.object({
  /** Client id of the submitter. */
  client: z.string(),
  /** The scheduler's job id. */
  job: z.string(),
  /** The job in its SPIFFE ID: job ids repeat, over sites and years. */
  handle: z.string(),
  artefacts: z.array(z.object({ role, secret_path: z.string(), sha512: z.string().optional() })),
  /** `waiting` for the job, `bound` to its key, `used`: no longer answered, `revoked`: it came with a second key. */
  state: z.enum(['waiting', 'bound', 'used', 'revoked']),
  /** The job's age recipient. */
  key: z.string().nullable(),
  bound: z.string().nullable(),
  expires: z.string(),
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
}

/** The job's own key may come again for this long after it came first, since an answer can be lost; in milliseconds. */
const repeatable = 15 * 60_000;
/** Lifetime of the token a job's records are read with, in seconds. */
const readingTime = 60;

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
  readonly #serial = new Serial();

  constructor(store: Store, spire: Spire, vault: VaultAdmin, permissions: Permissions, options: JobsOptions) {
    this.#store = store;
    this.#spire = spire;
    this.#vault = vault;
    this.#permissions = permissions;
    this.#options = options;
  }

  /**
   * Registers a submitted job of a client.
   *
   * @returns its SPIFFE ID
   * @throws HpcsError `identity`; code `forbidden` naming an artefact that the client may not use, `conflict` for a known ticket
   */
  async register(client: string, body: JobBody): Promise<{ spiffeId: string; expires: string }> {
    for (const artefact of body.artefacts) await this.#check(client, artefact);
    const handle = `${body.job}-${randomBytes(8).toString('hex')}`;
    const expires = new Date(Date.now() + body.lifetime * 1000).toISOString();
    const record: JobRecord = {
      client,
      job: body.job,
      handle,
      artefacts: body.artefacts,
      state: 'waiting',
      key: null,
      bound: null,
      expires,
    };
    if (!(await this.#store.write(`jobs/${body.ticket}`, record, 0)))
      throw new HpcsError('identity', 'conflict', 'a job with this ticket is registered already');
    return { spiffeId: formatSpiffeId(spiffeIds.job(this.#options.trustDomain, client, handle)), expires };
  }

  /**
   * Trades a ticket for the records of its job.
   *
   * @returns the records by their roles, as JSON sealed to the job's key (age-encryption.org/v1)
   * @throws HpcsError `identity`; `unauthenticated` for a ticket that is not known or no longer valid, `forbidden` for one that
   * came with another job's id or a second key, which revokes it, `record-mismatch` where the vault has other artefacts
   */
  async redeem(redemption: Redemption): Promise<Uint8Array> {
    const hash = ticketHash(redemption);
    const record = await this.#bind(hash, redemption);
    const records = await this.#serial.run(hash, () => this.#read(record));
    // A second key may have come while they were read.
    const now = await this.#store.read(`jobs/${hash}`, jobRecord);
    if (now?.value.state !== 'bound' || now.value.key !== redemption.key) throw this.#revoked(record);
    this.#audit('info', 'job got its keys', record);
    return seal(records, redemption.key);
  }

  /**
   * Ends what a job may do and destroys its own secret. A job that is not known counts as ended.
   *
   * @returns whether its ticket had come with two keys
   * @throws HpcsError `identity`; code `forbidden` for a job of somebody else
   */
  async end(client: string, hash: string): Promise<{ stolen: boolean }> {
    const found = await this.#store.read(`jobs/${hash}`, jobRecord);
    if (found === undefined) return { stolen: false };
    if (found.value.client !== client) throw new HpcsError('identity', 'forbidden', 'this job is not yours');
    await this.#remove(hash, found.value);
    this.#audit('info', 'job ended', found.value);
    return { stolen: found.value.state === 'revoked' };
  }

  /** Removes what expired, and what jobs no longer need. @throws HpcsError `identity` */
  async tidy(): Promise<void> {
    await eachOf(await this.#store.list('jobs'), async (hash) => {
      const found = await this.#store.read(`jobs/${hash}`, jobRecord);
      if (found === undefined) return;
      const { value, version } = found;
      if (new Date(value.expires) < new Date()) {
        await this.#remove(hash, value);
        this.#audit('info', 'job expired', value);
      } else if (value.state === 'bound' && isPast(value)) {
        // What is left lets a second key be noticed.
        if (await this.#store.write(`jobs/${hash}`, { ...value, state: 'used' }, version)) await this.#takeBack(value);
      }
    });
  }

  /** Binds the ticket to the key that it first comes with, by compare-and-set. */
  async #bind(hash: string, { job, key }: Redemption): Promise<JobRecord> {
    for (;;) {
      const found: Stored<JobRecord> | undefined = await this.#store.read(`jobs/${hash}`, jobRecord);
      if (found === undefined || new Date(found.value.expires) < new Date()) {
        this.#options.audit('warn', 'unknown ticket', { job });
        throw unauthenticated('it is not known: it was never registered, has expired, or its job has ended');
      }
      const { value, version } = found;
      if (value.job !== job) {
        this.#audit('error', 'ticket of another job', value, { shown: job });
        throw new HpcsError('identity', 'forbidden', 'the ticket is that of another job');
      }
      if (value.state === 'revoked') throw this.#revoked(value);
      if (value.state === 'waiting') {
        const bound: JobRecord = { ...value, state: 'bound', key, bound: new Date().toISOString() };
        if (await this.#store.write(`jobs/${hash}`, bound, version)) return bound;
      } else if (value.key === key) {
        if (value.state === 'bound' && !isPast(value)) return value;
        throw unauthenticated('it was used');
      } else if (await this.#store.write(`jobs/${hash}`, { ...value, state: 'revoked' }, version)) {
        await this.#takeBack(value);
        throw this.#revoked(value, key);
      }
    }
  }

  /** Reads the records as the job: with an identity, a role and a policy that are gone when this returns. */
  async #read(record: JobRecord): Promise<Record<string, unknown>> {
    for (const artefact of record.artefacts) await this.#check(record.client, artefact);
    const { trustDomain, audience } = this.#options;
    const subject = spiffeIds.job(trustDomain, record.client, record.handle);
    const paths = record.artefacts.map((artefact) => artefact.secret_path);
    using jwt = await this.#spire.mintJwtSvid(subject, [audience], readingTime);
    const contents = await this.#vault.readAs({ name: roleOf(record), subject, paths, lifetime: readingTime }, jwt);
    for (const [index, { role, sha512 }] of record.artefacts.entries()) {
      // What the original prepared has no digest here; the job knows of such, and takes them only where it was told to.
      const stored = digested.safeParse(contents[index]).data?.sha512;
      if (sha512 === undefined || stored === undefined || sha512 === stored) continue;
      throw mismatch(`the ${role} is not the one that the job was registered with: its SHA-512 is another`);
    }
    return Object.fromEntries(record.artefacts.map(({ role }, index) => [role, contents[index]]));
  }

  async #check(client: string, artefact: JobRecord['artefacts'][number]): Promise<void> {
    const path = parseSecretPath(artefact.secret_path);
    if (artefact.role === 'job' && path.owner !== client)
      throw new HpcsError('identity', 'forbidden', 'a job has a secret of its submitter alone');
    await this.#permissions.check(client, path);
  }

  async #remove(hash: string, record: JobRecord): Promise<void> {
    await this.#takeBack(record);
    await this.#store.remove(`jobs/${hash}`);
  }

  /** Removes role and policy, should a server have died between making and removing them, and destroys the job's own secret. */
  async #takeBack(record: JobRecord): Promise<void> {
    // The vault writes and removes policies one at a time: what is gone is not removed again.
    if (await this.#vault.isRole(roleOf(record))) await this.#vault.removeRole(roleOf(record));
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
function roleOf({ handle }: JobRecord): string {
  return `job_${handle}`;
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

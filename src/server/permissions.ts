import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import type { Clients, ClientRecord } from './clients.ts';
import { choose, gist, grantRecord, hindrance, type Asking, type GrantRecord } from './conditions.ts';
import type { PermitBody } from './bodies.ts';
import { Serial } from './serial.ts';
import type { Store, Stored } from './store.ts';

const permit = z.strictObject({
  /** Client id of the owner. */
  owner: z.string(),
  secret: z.string(),
  grants: z.array(grantRecord),
  created: z.string(),
});
type Permit = z.output<typeof permit>;

/** Owner and name of a secret in the vault. */
export interface SecretPath {
  owner: string;
  secret: string;
}

/** A grant to principals that stands: the names it was asked for with, each with the client id that it stands for. */
export interface Permitted {
  clients: Record<string, string>;
  groups: string[];
  /** Id of the grant; null where nobody but the owner was named. */
  grant: string | null;
}

/** What is to be taken back: the grant of an id, what was granted to clients and groups, or all. */
export interface Revocation {
  grants: readonly string[];
  clients: readonly string[];
  groups: readonly string[];
  all: boolean;
}

/**
 * Which clients may use whose artefacts in their jobs, and under what conditions. Owner, submitter and the maker of the image may be
 * three people: every artefact of a job is judged by its own owner's grants.
 */
export class Permissions {
  readonly #store: Store;
  readonly #clients: Clients;
  readonly #serial = new Serial();

  constructor(store: Store, clients: Clients) {
    this.#store = store;
    this.#clients = clients;
  }

  /**
   * Lets clients use one new secret of its owner in their jobs. The same may be asked for again.
   *
   * @throws HpcsError `identity`; code `bad-request` for a name that is nobody's, `conflict` where something else was granted
   */
  async permit(owner: string, body: PermitBody): Promise<Permitted> {
    // Names take their time: a client that goes away meanwhile has it forgotten, which must come behind it.
    return this.#serial.run(pathOf({ owner, secret: body.secret }), () => this.#permit(owner, body));
  }

  /** Adds a grant to those that there are. The same one asked for again is one. @throws HpcsError `identity` as {@link permit} */
  async add(owner: string, body: PermitBody): Promise<Permitted> {
    const { grant, clients } = await this.#grantOf(body);
    if (grant === undefined) throw new HpcsError('usage', 'bad-request', 'clients: expected somebody to grant to');
    let { id } = grant;
    await this.#change({ owner, secret: body.secret }, (grants) => {
      const same = grants.find((one) => gist(one) === gist(grant));
      id = same?.id ?? grant.id;
      return same === undefined ? [...grants, grant] : grants;
    });
    return { clients, groups: body.groups, grant: id };
  }

  /**
   * Takes grants back. It counts at the next registration and the next redemption: for jobs that wait, too.
   *
   * @returns how many grants were taken back or changed, and which of the clients named still may, through another grant
   * @throws HpcsError `identity`; code `bad-request` for a name that is nobody's
   */
  async revoke(path: SecretPath, what: Revocation): Promise<{ revoked: number; still: string[] }> {
    const ids = new Map<string, string>();
    for (const name of what.clients) {
      // Of a client that was removed only the id is left.
      const id = /^[0-9a-f]{9}$/.test(name) ? name : (await this.#resolve(name)).id;
      ids.set(id, name);
    }
    let revoked = 0;
    const left = await this.#change(path, (grants) => {
      revoked = 0;
      return grants.flatMap((grant) => {
        const clients = grant.clients.filter((id) => !ids.has(id));
        const groups = grant.groups.filter((group) => !what.groups.includes(group));
        const whole = what.all || what.grants.includes(grant.id);
        const same = clients.length === grant.clients.length && groups.length === grant.groups.length;
        if (!whole && same) return [grant];
        revoked += 1;
        return whole || clients.length + groups.length === 0 ? [] : [{ ...grant, clients, groups }];
      });
    });
    const still: string[] = [];
    for (const [id, name] of ids) if ((await this.#to(id, left)).length > 0) still.push(name);
    return { revoked, still };
  }

  /** The grants of a secret; undefined where there is no record of any. @throws HpcsError `identity` */
  async find(path: SecretPath): Promise<GrantRecord[] | undefined> {
    return (await this.#store.read(pathOf(path), permit))?.value.grants;
  }

  /** Names of an owner's secrets of which there is a record. @throws HpcsError `identity` */
  async secrets(owner: string): Promise<string[]> {
    return this.#store.list(`grants/${owner}`);
  }

  /**
   * Makes sure that a client's job may use a secret now, without counting it.
   *
   * @throws HpcsError `identity` with code `forbidden`, in the same words whether the secret exists or not
   */
  async check(submitter: string, path: SecretPath, job: Asking): Promise<void> {
    await this.#exists(submitter);
    if (path.owner === submitter) return;
    await this.#chosen(submitter, path, job, await this.#read(path));
  }

  /**
   * The same, and the job counts from now on against a grant that limits their number: by compare-and-set, and once however often it
   * asks.
   *
   * @returns whether the grant is for one image only
   * @throws HpcsError `identity` with code `forbidden`
   */
  async take(submitter: string, path: SecretPath, job: Asking): Promise<{ imageBound: boolean }> {
    await this.#exists(submitter);
    if (path.owner === submitter) return { imageBound: false };
    for (;;) {
      const found = await this.#read(path);
      const grant = await this.#chosen(submitter, path, job, found);
      const imageBound = grant.image !== undefined;
      if (found === undefined || grant.jobs === undefined || grant.used.includes(job.handle)) return { imageBound };
      const grants = found.value.grants.map((one) => one.id === grant.id ? { ...one, used: [...one.used, job.handle] } : one); // prettier-ignore
      if (await this.#store.write(pathOf(path), { ...found.value, grants }, found.version)) return { imageBound };
    }
  }

  /** Gives back what a job counted that got nothing. @throws HpcsError `identity` */
  async giveBack(path: SecretPath, handle: string): Promise<void> {
    for (;;) {
      const found = await this.#read(path);
      if (found?.value.grants.some(({ used }) => used.includes(handle)) !== true) return;
      const grants = found.value.grants.map((one) => ({ ...one, used: one.used.filter((one) => one !== handle) }));
      if (await this.#store.write(pathOf(path), { ...found.value, grants }, found.version)) return;
    }
  }

  /** Forgets who may use a secret that is destroyed. @throws HpcsError `identity` */
  async forget(path: SecretPath): Promise<void> {
    await this.#serial.run(pathOf(path), () => this.#store.remove(pathOf(path)));
  }

  async #permit(owner: string, body: PermitBody): Promise<Permitted> {
    const { grant, clients } = await this.#grantOf(body);
    const { secret } = body;
    const grants = grant === undefined ? [] : [grant];
    const record: Permit = { owner, secret, grants, created: new Date().toISOString() };
    if (await this.#store.write(pathOf({ owner, secret }), record, 0))
      return { clients, groups: body.groups, grant: grant?.id ?? null };
    const found = (await this.find({ owner, secret })) ?? [];
    if (JSON.stringify(found.map(gist)) !== JSON.stringify(grants.map(gist)))
      throw new HpcsError('identity', 'conflict', `the secret ${secret} of client ${owner} is already granted to others`);
    return { clients, groups: body.groups, grant: found[0]?.id ?? null };
  }

  async #grantOf(body: PermitBody): Promise<{ grant: GrantRecord | undefined; clients: Record<string, string> }> {
    const { image, until, jobs } = body;
    if (until !== undefined && new Date(until) <= new Date())
      throw new HpcsError('usage', 'bad-request', 'until: expected a time to come');
    const clients: Record<string, string> = {};
    for (const name of body.clients) clients[name] = (await this.#resolve(name)).id;
    const ids = [...new Set(Object.values(clients))].toSorted();
    if (ids.length + body.groups.length === 0) return { grant: undefined, clients };
    const conditions = { ...(image && { image }), ...(until && { until }), ...(jobs && { jobs }) };
    const id = randomBytes(4).toString('hex');
    const created = new Date().toISOString();
    return { grant: { id, clients: ids, groups: body.groups.toSorted(), ...conditions, used: [], created }, clients };
  }

  async #read(path: SecretPath): Promise<Stored<Permit> | undefined> {
    return this.#store.read(pathOf(path), permit);
  }

  async #change(path: SecretPath, change: (grants: GrantRecord[]) => GrantRecord[]): Promise<GrantRecord[]> {
    for (;;) {
      const found = await this.#read(path);
      const before = found?.value ?? { ...path, grants: [], created: new Date().toISOString() };
      const grants = change(before.grants);
      if (JSON.stringify(grants) === JSON.stringify(before.grants)) return grants;
      if (await this.#store.write(pathOf(path), { ...before, grants }, found?.version ?? 0)) return grants;
    }
  }

  async #exists(submitter: string): Promise<void> {
    if (await this.#clients.isRemoved(submitter))
      throw new HpcsError('identity', 'forbidden', `the client ${submitter} was removed`);
  }

  /** Those of some grants that are made to a client. */
  async #to(client: string, grants: readonly GrantRecord[]): Promise<GrantRecord[]> {
    const named = grants.filter(({ clients }) => clients.includes(client));
    const others = grants.filter((grant) => grant.groups.length > 0 && !named.includes(grant));
    if (others.length === 0) return named;
    const groups = (await this.#clients.find(client))?.groups ?? [];
    return [...named, ...others.filter((grant) => grant.groups.some((group) => groups.includes(group)))];
  }

  async #chosen(submitter: string, path: SecretPath, job: Asking, found: Stored<Permit> | undefined): Promise<GrantRecord> {
    const grants = await this.#to(submitter, found?.value.grants ?? []);
    const grant = choose(grants, job);
    if (grant !== undefined) return grant;
    const secret = `client_${path.owner}/${path.secret}`;
    const [reason] = grants.map((one) => hindrance(one, job));
    throw new HpcsError(
      'identity',
      'forbidden',
      reason === undefined
        ? `the secret ${secret} is not granted to client ${submitter}`
        : `the grant of the secret ${secret} to client ${submitter} ${reason}`,
    );
  }

  async #resolve(name: string): Promise<ClientRecord> {
    const client = await this.#clients.named(name);
    if (client !== undefined) return client;
    throw new HpcsError('usage', 'bad-request', `clients: nobody is enrolled here as ${name}`);
  }
}

function pathOf({ owner, secret }: SecretPath): string {
  return `grants/${owner}/${secret}`;
}

import { createHash, randomBytes } from 'node:crypto';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { proofWindow, type Proof } from '../identity/proof.ts';
import { spiffeIds } from '../identity/spiffe-id.ts';
import { Secret } from '../secret.ts';
import type { Principal } from './issuer-rules.ts';
import { Keys, type Key } from './keys.ts';
import { Serial } from './serial.ts';
import { eachOf, type Store, type Stored } from './store.ts';
import type { VaultAdmin } from './vault-admin.ts';

const clientRecord = z.strictObject({
  /** 9 hex characters, random. */
  id: z.string(),
  /** Who it is, for ever: `enrolled:` and a name that an administrator gave, or an issuer and a claim that never changes. */
  identity: z.string(),
  name: z.string(),
  /** Groups that grants may name. */
  groups: z.array(z.string()),
  created: z.string(),
  /** When it was removed: its id stays taken, and is nobody's. */
  removed: z.string().optional(),
  /** It has no identity here: it was registered by the original's call. The record keeps its id from being given again. */
  registered: z.literal(true).optional(),
});
/** An authenticated client as the server knows it. */
export type ClientRecord = z.output<typeof clientRecord>;

const invitation = z.strictObject({
  name: z.string(),
  /**
   * The groups that the client has from then on; `null` for none. An empty list leaves those that it has: earlier versions wrote it where
   * none were named.
   */
  groups: z.array(z.string()).nullable(),
  expires: z.iso.datetime(),
  /** Thumbprint of the key that it was used with. */
  key: z.string().nullable(),
  /** The client that it made of that key. */
  client: z.string().nullable(),
});
const identityRecord = z.strictObject({ client: z.string() });

/** Says whether somebody is served now, by a name that is his alone. @throws HpcsError where not */
export type Admit = (who: string) => Promise<void>;
const everybody: Admit = async () => undefined;

/**
 * Who the clients are. Each has a random id, which its identity was given once and keeps, whatever the machine and the key it
 * comes with; a key is one that was enrolled with a one-time token, or came with a login and counts for a while, or is nobody's.
 */
export class Clients {
  readonly #store: Store;
  readonly #vault: VaultAdmin;
  readonly #trustDomain: string;
  readonly #keys: Keys;
  readonly #serial = new Serial();
  readonly #identityOf: (name: string) => string | undefined;
  readonly #draw: () => string;

  /**
   * @param identityOf the identity that a name of a trusted issuer's stands for; undefined for other names
   * @param draw a random id; taken ones are noticed
   */
  constructor(
    store: Store,
    vault: VaultAdmin,
    trustDomain: string,
    identityOf: (name: string) => string | undefined = () => undefined,
    draw: () => string = newId,
  ) {
    this.#store = store;
    this.#keys = new Keys(store);
    this.#vault = vault;
    this.#trustDomain = trustDomain;
    this.#identityOf = identityOf;
    this.#draw = draw;
  }

  /**
   * Makes a token with which one key can be enrolled, once.
   *
   * @param options.name of the person or project; the same name is the same client again
   * @param options.groups the client's groups from then on, be it none; without them they stay as they are. Tokens made before that give
   * groups, and are unused, give these from now on: what was taken away does not come back by them
   * @param options.lifetime of the token, in seconds
   * @throws HpcsError `identity`
   */
  async invite({
    name,
    groups,
    lifetime,
  }: {
    name: string;
    groups?: readonly string[] | undefined;
    lifetime: number;
  }): Promise<{ token: Secret; expires: Date }> {
    const token = new Secret(randomBytes(32).toString('base64url'));
    const expires = new Date(Date.now() + lifetime * 1000);
    const named = groups?.length === 0 ? null : (groups ?? []);
    const record = { name, groups: named, expires: expires.toISOString(), key: null, client: null };
    if (groups !== undefined) await this.#regroup(name, named);
    await this.#store.write(`enrolments/${hash(token.bytes())}`, record, 0);
    return { token, expires };
  }

  async #regroup(name: string, groups: readonly string[] | null): Promise<void> {
    await eachOf(await this.#store.list('enrolments'), async (token) => {
      const path = `enrolments/${token}`;
      for (;;) {
        const found = await this.#store.readKnown(path, invitation, () => undefined);
        if (found === undefined || found.value.name !== name || found.value.client !== null) return;
        // An empty list gives none.
        if (found.value.groups?.length === 0) return;
        if (await this.#store.write(path, { ...found.value, groups }, found.version)) return;
      }
    });
  }

  /**
   * Enrols the key of a proof. The same key may come again with its token, since an answer can be lost; nothing that was changed or
   * taken away since comes back by that.
   *
   * @param admit asked whether who has this token is served, before anything is written down
   * @throws HpcsError `identity` with code `forbidden` for a token that is unknown, too old, or was used with another key; `key-ended` for a
   * key that was revoked; `key-conflict` for a key that is another client's, or came with a login
   */
  async enrol(token: Secret, proof: Proof, admit: Admit = everybody): Promise<ClientRecord> {
    const { thumbprint } = proof;
    const path = `enrolments/${hash(token.bytes())}`;
    const found = await this.#store.read(path, invitation);
    if (found === undefined || new Date(found.value.expires) < new Date()) throw notInvited('is not known, or too old');
    await admit(path);
    await this.once(proof);
    await this.#keys.assertEnrollable(thumbprint);
    const { value } = found;
    let { version } = found;
    if (value.key !== null && value.key !== thumbprint) throw notInvited('was used already');
    if (value.client !== null) return this.#enrolled(value.client, thumbprint);
    const used = { ...value, key: thumbprint };
    if (value.key === null) {
      if (!(await this.#store.write(path, used, version))) throw notInvited('was used already');
      version += 1;
    }
    const groups = value.groups?.length === 0 ? undefined : (value.groups ?? []);
    const client = await this.#clientOf(`enrolled:${value.name}`, { name: value.name, groups });
    await this.#makeRole(client.id);
    await this.#keys.enrol(client.id, thumbprint);
    await this.#enrolled(client.id, thumbprint);
    // Where this fails, the same call was answered twice at once, and the other did it.
    await this.#store.write(path, { ...used, client: client.id }, version);
    return client;
  }

  /** The client that a key was enrolled for. @throws HpcsError `forbidden` where either was removed, `key-conflict` for another's */
  async #enrolled(id: string, thumbprint: string): Promise<ClientRecord> {
    const key = await this.#keys.find(thumbprint);
    const client = await this.find(id);
    if (key === undefined || client === undefined) throw notInvited('was used already');
    if (key.client === id && key.expires === undefined) return client;
    throw new HpcsError('identity', 'key-conflict', 'this key is enrolled as another client already');
  }

  /**
   * The client whose key made a proof. A proof counts once, at all servers on this vault together.
   *
   * @param admit asked whether the client is served, before anything is written down for it
   * @returns also until when the key counts, where that ends
   * @throws HpcsError `identity` with code `unauthenticated` for an unknown key and a proof that was shown before
   */
  async authenticate(proof: Proof, admit: Admit = everybody): Promise<ClientRecord & { until: Date | undefined }> {
    const key = await this.#keys.find(proof.thumbprint);
    const client = key === undefined ? undefined : await this.find(key.client);
    if (client === undefined) throw unauthenticated('its key is not enrolled here, or no longer');
    if (isOver(key)) throw unauthenticated('the session of its key has ended: log in again');
    await admit(client.id);
    await this.once(proof);
    return { ...client, until: key?.expires };
  }

  /**
   * Makes a key one of a client's until a time.
   *
   * @param times when the session ends, and the token that the key came with
   * @throws HpcsError `identity`, as {@link Keys.admit}
   */
  async admit(principal: Principal, thumbprint: string, times: { expires: Date; token: Date }): Promise<ClientRecord> {
    const client = await this.#clientOf(principal.identity, principal);
    await this.#makeRole(client.id);
    await this.#keys.admit(thumbprint, { client: client.id, ...times });
    return client;
  }

  /** Makes sure that a key was not ended by somebody, as {@link Keys.assertNotEnded}. @throws HpcsError `identity`, code `key-ended` */
  assertNotEnded(thumbprint: string): Promise<void> {
    return this.#keys.assertNotEnded(thumbprint);
  }

  /** Ends the session of a key, as {@link Keys.dismiss}. @throws HpcsError `identity` */
  dismiss(thumbprint: string): Promise<void> {
    return this.#keys.dismiss(thumbprint);
  }

  /** Forgets keys, as {@link Keys.tidy}. @throws HpcsError `identity` */
  tidySessions(): Promise<void> {
    return this.#keys.tidy();
  }

  /** Remembers a proof as shown. @throws HpcsError `identity` with code `unauthenticated` where it was before */
  async once(proof: Proof): Promise<void> {
    const name = hash(`${proof.thumbprint} ${proof.id}`);
    // Spread over directories: one answer lists each.
    const path = `proofs/${windowOf(proof.issuedAt)}/${name.slice(0, 2)}/${name}`;
    if (!(await this.#store.write(path, {}, 0))) throw unauthenticated('it was shown before');
  }

  /** A client by its id; undefined for one that was removed, or has no identity here. @throws HpcsError `identity` */
  async find(id: string): Promise<ClientRecord | undefined> {
    const found = (await this.#store.read(`clients/${id}`, clientRecord))?.value;
    return found?.removed === undefined && found?.registered === undefined ? found : undefined;
  }

  /**
   * Whether a client was removed. One that never was enrolled was not: those that SPIRE attests have no record until then.
   *
   * @throws HpcsError `identity`
   */
  async isRemoved(id: string): Promise<boolean> {
    return (await this.#store.read(`clients/${id}`, clientRecord))?.value.removed !== undefined;
  }

  /**
   * All clients, those aside that SPIRE alone knows; with the thumbprints of their keys.
   *
   * @param unknown told of each record of an unknown form
   * @throws HpcsError `identity`
   */
  async all(unknown: (error: HpcsError) => void = () => undefined): Promise<(ClientRecord & { keys: string[] })[]> {
    const keys = new Map<string, string[]>();
    for (const { thumbprint, client } of await this.#keys.all(unknown))
      keys.set(client, [...(keys.get(client) ?? []), thumbprint]);
    const all: (ClientRecord & { keys: string[] })[] = [];
    for (const id of await this.#store.list('clients')) {
      const found = (await this.#store.readKnown(`clients/${id}`, clientRecord, unknown))?.value;
      if (found !== undefined && (found.registered === undefined || found.removed !== undefined))
        all.push({ ...found, keys: keys.get(id) ?? [] });
    }
    return all;
  }

  /**
   * Removes a client for good: nothing that it shows counts any more, and nobody gets its id. A name that it was enrolled under may
   * be enrolled anew, as another client. May be repeated, which completes it.
   *
   * @throws HpcsError `identity`
   */
  async remove(id: string): Promise<void> {
    const path = `clients/${id}`;
    for (;;) {
      const found: Stored<ClientRecord> | undefined = await this.#store.read(path, clientRecord);
      const now = new Date().toISOString();
      const before = found?.value ?? { id, identity: '', name: id, groups: [], created: now };
      if (before.removed !== undefined) break;
      if (await this.#store.write(path, { ...before, removed: now }, found?.version ?? 0)) break;
    }
    const identity = (await this.#store.read(path, clientRecord))?.value.identity ?? '';
    // A name may be enrolled anew, which an administrator does. Whom others vouch for would be back by himself: he stays removed.
    const known = await this.#store.read(identityPath(identity), identityRecord);
    if (known?.value.client === id && identity.startsWith('enrolled:')) await this.#store.remove(identityPath(identity));
    await this.#keys.removeOf(id);
    await eachOf(await this.#store.list('enrolments'), async (name) => {
      const found = (await this.#store.readKnown(`enrolments/${name}`, invitation, () => undefined))?.value;
      if (found?.client === id || (found?.client === null && `enrolled:${found.name}` === identity))
        await this.#store.remove(`enrolments/${name}`);
    });
  }

  /** Revokes a key for good, as {@link Keys.revoke}. @throws HpcsError `identity` */
  revokeKey(thumbprint: string): Promise<string | undefined> {
    return this.#keys.revoke(thumbprint);
  }

  /** A client by the name it was enrolled under, by that of its issuer, or by its id. @throws HpcsError `identity` */
  async named(name: string): Promise<ClientRecord | undefined> {
    if (/^[0-9a-f]{9}$/.test(name)) return this.find(name);
    const identity = await this.#store.read(identityPath(this.#identityOf(name) ?? `enrolled:${name}`), identityRecord);
    return identity === undefined ? undefined : this.find(identity.value.client);
  }

  /**
   * The id of the client that an administrator means: by its id, the name it was enrolled under, or that of its issuer, as it logged in
   * with. One that was removed is found too, while its name is nobody else's.
   *
   * @returns undefined for a name that is nobody's
   * @throws HpcsError `identity`; `usage` with code `which-client` for a name that several have: an issuer may have had another alias
   */
  async idOf(name: string): Promise<string | undefined> {
    if (/^[0-9a-f]{9}$/.test(name)) return name;
    const identity = this.#identityOf(name) ?? `enrolled:${name}`;
    const known = (await this.#store.read(identityPath(identity), identityRecord))?.value.client;
    if (!name.includes(':')) return known;
    const called = (await this.all())
      .filter((client) => client.name === name && client.removed === undefined)
      .map(({ id }) => id);
    const [found = known, ...others] = new Set([
      ...called,
      ...(known !== undefined && !(await this.isRemoved(known)) ? [known] : []),
    ]);
    if (others.length === 0) return found;
    throw new HpcsError('usage', 'which-client', `several clients are called ${name}: ${[found, ...others].join(', ')}`, {
      suggestion: 'name the one that you mean by its id',
    });
  }

  /** The ids of the clients that names stand for; null for a name that is nobody's. @throws HpcsError `identity` */
  async resolve(names: readonly string[]): Promise<Record<string, string | null>> {
    const ids: Record<string, string | null> = {};
    for (const name of names) ids[name] = (await this.named(name))?.id ?? null;
    return ids;
  }

  /** Forgets the proofs that are too old to be shown again, and the tokens nobody came with. @throws HpcsError `identity` */
  async tidy(): Promise<void> {
    // The window before this one may still hold valid ones; one more, since the clocks of two servers differ.
    const oldest = windowOf(Date.now() / 1000) - 2;
    const windows = await this.#store.directories('proofs');
    const forget = async (window: string): Promise<void> =>
      eachOf(await this.#store.directories(`proofs/${window}`), async (part) => {
        const place = `proofs/${window}/${part}`;
        await eachOf(await this.#store.list(place), (name) => this.#store.remove(`${place}/${name}`), 1);
      });
    await eachOf(
      windows.filter((window) => Number(window) < oldest),
      forget,
      1,
    );
    await eachOf(await this.#store.list('enrolments'), async (name) => {
      const found = await this.#store.read(`enrolments/${name}`, invitation);
      if (found !== undefined && new Date(found.value.expires) < new Date()) await this.#store.remove(`enrolments/${name}`);
    });
  }

  /**
   * Makes sure of a client's role in the vault, whose transactions fail where two write it at once: here one comes after the other, and
   * one that another server has just written will do.
   */
  async #makeRole(id: string): Promise<void> {
    const subject = spiffeIds.clientWorkload(this.#trustDomain, id);
    await this.#serial.run(id, async () => {
      try {
        await this.#vault.writeClient(id, subject);
      } catch (error) {
        if (!(await this.#vault.hasRole({ name: `client_${id}`, policy: `client_${id}`, subject }))) throw error;
      }
      // Removed while this waited for its turn: either that is seen here, or what was written here is removed with the rest.
      if ((await this.find(id)) !== undefined) return;
      await this.#vault.removeClient(id);
      throw wasRemoved(id);
    });
  }

  async #clientOf(identity: string, { name, groups }: { name: string; groups?: string[] | undefined }): Promise<ClientRecord> {
    const path = identityPath(identity);
    for (;;) {
      const known = await this.#store.read(path, identityRecord);
      if (known !== undefined) return this.#withGroups(known.value.client, groups);
      // An id is taken before an identity is given it: two identities never share one.
      const client = await this.#take((id) => ({ id, identity, name, groups: groups ?? [], created: new Date().toISOString() }));
      if (await this.#store.write(path, { client: client.id }, 0)) return client;
      await this.#store.remove(`clients/${client.id}`);
    }
  }

  /**
   * Takes an id for a client that gets no identity here, such as those of the original.
   *
   * @returns 9 hex characters that are, and were, no other client's
   * @throws HpcsError `identity`
   */
  async reserve(): Promise<string> {
    const created = new Date().toISOString();
    return (await this.#take((id) => ({ id, identity: '', name: id, groups: [], created, registered: true }))).id;
  }

  async #take(recordOf: (id: string) => ClientRecord): Promise<ClientRecord> {
    for (;;) {
      const client = recordOf(this.#draw());
      const { id } = client;
      if (!(await this.#store.write(`clients/${id}`, client, 0))) continue;
      // One that SPIRE and the vault alone know has no record.
      const subject = spiffeIds.clientWorkload(this.#trustDomain, id);
      if (!(await this.#vault.hasRole({ name: `client_${id}`, policy: `client_${id}`, subject }))) return client;
      await this.#store.remove(`clients/${id}`);
    }
  }

  async #withGroups(id: string, groups: string[] | undefined): Promise<ClientRecord> {
    for (;;) {
      const found: Stored<ClientRecord> | undefined = await this.#store.read(`clients/${id}`, clientRecord);
      if (found === undefined || found.value.removed !== undefined) throw wasRemoved(id);
      if (groups === undefined || JSON.stringify(groups) === JSON.stringify(found.value.groups)) return found.value;
      const changed = { ...found.value, groups };
      if (await this.#store.write(`clients/${id}`, changed, found.version)) return changed;
    }
  }
}

function wasRemoved(id: string): HpcsError {
  return new HpcsError('identity', 'forbidden', `the client ${id} was removed`);
}

function isOver(key: Key | undefined): boolean {
  return key?.expires !== undefined && key.expires <= new Date();
}

/** 9 hex characters, as old clients and the original's names expect. */
function newId(): string {
  return randomBytes(5).toString('hex').slice(0, 9);
}

function identityPath(identity: string): string {
  return `identities/${hash(identity)}`;
}

function windowOf(seconds: number): number {
  return Math.floor(seconds / proofWindow);
}

function hash(value: string | Uint8Array): string {
  return createHash('sha256').update(value).digest('hex');
}

function notInvited(what: string): HpcsError {
  return new HpcsError('identity', 'forbidden', `the enrolment token ${what}`);
}

function unauthenticated(what: string): HpcsError {
  return new HpcsError('identity', 'unauthenticated', `the proof of possession is not valid: ${what}`);
}

import { createHash, randomBytes } from 'node:crypto';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { proofWindow, type Proof } from '../identity/proof.ts';
import { spiffeIds } from '../identity/spiffe-id.ts';
import { Secret } from '../secret.ts';
import type { Store, Stored } from './store.ts';
import type { VaultAdmin } from './vault-admin.ts';

const clientRecord = z.object({
  /** 9 hex characters, random. */
  id: z.string(),
  /** Who it is, for ever: `enrolled:` and a name that an administrator gave. */
  identity: z.string(),
  name: z.string(),
  /** Groups that grants may name. */
  groups: z.array(z.string()),
  created: z.string(),
});
/** An authenticated client as the server knows it. */
export type ClientRecord = z.output<typeof clientRecord>;

const invitation = z.object({
  name: z.string(),
  groups: z.array(z.string()),
  expires: z.string(),
  /** Thumbprint of the key that it was used with. */
  key: z.string().nullable(),
});
const keyRecord = z.object({ client: z.string(), created: z.string() });
const identityRecord = z.object({ client: z.string() });

/**
 * Who the clients are. Each has a random id, which its identity was given once and keeps, whatever the machine and the key it
 * comes with; a key is one that was enrolled with a one-time token, or is nobody's.
 */
export class Clients {
  readonly #store: Store;
  readonly #vault: VaultAdmin;
  readonly #trustDomain: string;

  constructor(store: Store, vault: VaultAdmin, trustDomain: string) {
    this.#store = store;
    this.#vault = vault;
    this.#trustDomain = trustDomain;
  }

  /**
   * Makes a token with which one key can be enrolled, once.
   *
   * @param options.name of the person or project; the same name is the same client again
   * @param options.lifetime of the token, in seconds
   * @throws HpcsError `identity`
   */
  async invite(options: {
    name: string;
    groups: readonly string[];
    lifetime: number;
  }): Promise<{ token: Secret; expires: Date }> {
    const token = new Secret(randomBytes(32).toString('base64url'));
    const expires = new Date(Date.now() + options.lifetime * 1000);
    const record = { name: options.name, groups: options.groups, expires: expires.toISOString(), key: null };
    await this.#store.write(`enrolments/${hash(token.bytes())}`, record, 0);
    return { token, expires };
  }

  /**
   * Enrols the key of a proof. The same key may come again with its token, since an answer can be lost.
   *
   * @throws HpcsError `identity` with code `forbidden` for a token that is unknown, too old, or was used with another key
   */
  async enrol(token: Secret, { thumbprint }: Proof): Promise<ClientRecord> {
    const path = `enrolments/${hash(token.bytes())}`;
    const found = await this.#store.read(path, invitation);
    if (found === undefined || new Date(found.value.expires) < new Date()) throw notInvited('is not known, or too old');
    const { value, version } = found;
    if (value.key !== null && value.key !== thumbprint) throw notInvited('was used already');
    if (value.key === null && !(await this.#store.write(path, { ...value, key: thumbprint }, version))) {
      throw notInvited('was used already');
    }
    const client = await this.#clientOf(`enrolled:${value.name}`, value);
    await this.#vault.writeClient(client.id, spiffeIds.clientWorkload(this.#trustDomain, client.id));
    await this.#store.write(`keys/${thumbprint}`, { client: client.id, created: new Date().toISOString() }, 0);
    return client;
  }

  /**
   * The client whose key made a proof. A proof counts once, at all servers on this vault together.
   *
   * @throws HpcsError `identity` with code `unauthenticated` for an unknown key and a proof that was shown before
   */
  async authenticate(proof: Proof): Promise<ClientRecord> {
    const key = await this.#store.read(`keys/${proof.thumbprint}`, keyRecord);
    const client = key === undefined ? undefined : await this.find(key.value.client);
    if (client === undefined) throw unauthenticated('its key is not enrolled here, or no longer');
    await this.once(proof);
    return client;
  }

  /** Remembers a proof as shown. @throws HpcsError `identity` with code `unauthenticated` where it was before */
  async once(proof: Proof): Promise<void> {
    const path = `proofs/${windowOf(proof.issuedAt)}/${hash(`${proof.thumbprint} ${proof.id}`)}`;
    if (!(await this.#store.write(path, {}, 0))) throw unauthenticated('it was shown before');
  }

  /** A client by its id. @throws HpcsError `identity` */
  async find(id: string): Promise<ClientRecord | undefined> {
    return (await this.#store.read(`clients/${id}`, clientRecord))?.value;
  }

  /** A client by the name it was enrolled under, or by its id. @throws HpcsError `identity` */
  async named(name: string): Promise<ClientRecord | undefined> {
    if (/^[0-9a-f]{9}$/.test(name)) return this.find(name);
    const identity = await this.#store.read(identityPath(`enrolled:${name}`), identityRecord);
    return identity === undefined ? undefined : this.find(identity.value.client);
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
    for (const window of (await this.#store.list('proofs')).map((name) => name.replace('/', ''))) {
      if (Number(window) >= oldest) continue;
      for (const name of await this.#store.list(`proofs/${window}`)) await this.#store.remove(`proofs/${window}/${name}`);
    }
    for (const name of await this.#store.list('enrolments')) {
      const found = await this.#store.read(`enrolments/${name}`, invitation);
      if (found !== undefined && new Date(found.value.expires) < new Date()) await this.#store.remove(`enrolments/${name}`);
    }
  }

  async #clientOf(identity: string, { name, groups }: { name: string; groups: string[] }): Promise<ClientRecord> {
    const path = identityPath(identity);
    for (;;) {
      const known = await this.#store.read(path, identityRecord);
      if (known !== undefined) return this.#withGroups(known.value.client, groups);
      const client = { id: newId(), identity, name, groups, created: new Date().toISOString() };
      // An id is taken before an identity is given it: two identities never share one.
      if (!(await this.#store.write(`clients/${client.id}`, client, 0))) continue;
      if (await this.#store.write(path, { client: client.id }, 0)) return client;
      await this.#store.remove(`clients/${client.id}`);
    }
  }

  async #withGroups(id: string, groups: string[]): Promise<ClientRecord> {
    for (;;) {
      const found: Stored<ClientRecord> | undefined = await this.#store.read(`clients/${id}`, clientRecord);
      if (found === undefined) throw new HpcsError('identity', 'forbidden', `the client ${id} was removed`);
      const changed = { ...found.value, groups };
      if (JSON.stringify(changed.groups) === JSON.stringify(found.value.groups)) return found.value;
      if (await this.#store.write(`clients/${id}`, changed, found.version)) return changed;
    }
  }
}

/** 9 hex characters, as old clients and the original's names expect. Taken ones are noticed when it is stored. */
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

import { HpcsError } from '../errors.ts';
import type { Clients } from './clients.ts';
import type { GrantRecord } from './conditions.ts';
import type { Grants } from './grants.ts';
import { isSecretPath, parseSecretPath, type AddBody, type RevokeBody } from './bodies.ts';
import type { Permissions, Permitted, SecretPath } from './permissions.ts';
import type { VaultAdmin } from './vault-admin.ts';

/** A grant as its owner is shown it. */
export interface ShownGrant {
  id: string;
  /** With the name that each is enrolled under; null for one that is no more. */
  clients: { id: string; name: string | null }[];
  groups: string[];
  image?: string | undefined;
  until?: string | undefined;
  jobs?: number | undefined;
  /** How many jobs count against `jobs`. */
  used: number;
  created: string;
}

/** Who may use one secret: clients in their jobs, and in agent mode readers on nodes. */
export interface SecretAccess {
  secret_path: string;
  grants: ShownGrant[];
  readers: { node: string; selector: string }[];
}

/** A secret, or a directory of some, that could not be destroyed. */
export interface Undestroyed {
  path: string;
  error: unknown;
}

/** What an owner does with what is granted of his: shows, adds, takes back, destroys. Nobody else does it to that. */
export class Access {
  readonly #clients: Clients;
  readonly #permissions: Permissions;
  readonly #grants: Grants;
  readonly #vault: VaultAdmin;

  constructor(clients: Clients, permissions: Permissions, grants: Grants, vault: VaultAdmin) {
    this.#clients = clients;
    this.#permissions = permissions;
    this.#grants = grants;
    this.#vault = vault;
  }

  /**
   * Who may use a secret; without one, all of the owner's that clients may use.
   *
   * @throws HpcsError `identity`; code `forbidden` for somebody else's, `secret-missing` where there is none
   */
  async list(owner: string, secretPath: string | undefined): Promise<SecretAccess[]> {
    if (secretPath !== undefined) {
      const path = await this.#owned(owner, secretPath);
      return [
        {
          secret_path: secretPath,
          grants: await this.#shown((await this.#permissions.find(path)) ?? []),
          readers: await this.#grants.readers(path.owner, path.secret),
        },
      ];
    }
    const all: SecretAccess[] = [];
    for (const secret of await this.#permissions.secrets(owner)) {
      const grants = await this.#shown((await this.#permissions.find({ owner, secret })) ?? []);
      if (grants.length > 0) all.push({ secret_path: `client_${owner}/${secret}`, grants, readers: [] });
    }
    return all;
  }

  /** Adds a grant to clients. @throws HpcsError `identity` as {@link list}, and as {@link Permissions.add} */
  async add(owner: string, { secret_path, ...body }: AddBody): Promise<Permitted> {
    const { secret } = await this.#owned(owner, secret_path);
    return this.#permissions.add(owner, { ...body, secret });
  }

  /**
   * Takes grants back; `all` takes the readers of agent mode, too.
   *
   * @returns how many, and who of those named may still, by another grant
   * @throws HpcsError `identity` as {@link list}
   */
  async revoke(owner: string, body: RevokeBody): Promise<{ revoked: number; still: string[]; readers: number }> {
    const path = await this.#owned(owner, body.secret_path);
    const readers = body.all ? await this.#grants.revoke(path.owner, path.secret) : 0;
    return { ...(await this.#permissions.revoke(path, body)), readers };
  }

  /**
   * Destroys a secret: all its versions, so that nothing undeletes it, and everything that let it be read. May be repeated.
   *
   * @throws HpcsError `identity`; code `forbidden` for somebody else's
   */
  async destroy(owner: string, secretPath: string): Promise<void> {
    const path = parseSecretPath(secretPath);
    checkOwner(owner, path, secretPath);
    // Before the readers, who may be many.
    await this.#vault.destroy(secretPath);
    await this.#grants.revoke(path.owner, path.secret);
    await this.#permissions.forget(path);
    // A client that wrote it again meanwhile.
    await this.#vault.destroy(secretPath);
  }

  /**
   * Destroys all secrets of an owner, also those that have no proper name. One that cannot be destroyed keeps no other from it.
   *
   * @returns how many there are no more, and what is left, with the reason
   */
  async destroyAll(owner: string): Promise<{ destroyed: number; left: Undestroyed[] }> {
    const left: Undestroyed[] = [];
    const failed = (path: string, error: unknown): void => void left.push({ path, error });
    const paths = new Set<string>();
    for await (const path of this.#vault.secretsOf(owner, failed)) {
      paths.add(path);
      try {
        // Only what has a proper name can have been granted.
        if (isSecretPath(path)) await this.destroy(owner, path);
        else await this.#vault.destroy(path);
      } catch (error) {
        failed(path, error);
        paths.delete(path);
      }
    }
    // The vault answers that it destroyed what it does not find: a name that is not text is listed as another.
    for await (const path of this.#vault.secretsOf(owner, () => undefined))
      if (paths.delete(path)) failed(path, new Error('the vault lists it still: its name may not be text'));
    return { destroyed: paths.size, left };
  }

  async #owned(owner: string, secretPath: string): Promise<SecretPath> {
    const path = parseSecretPath(secretPath);
    checkOwner(owner, path, secretPath);
    if (await this.#vault.hasSecret(secretPath)) return path;
    throw new HpcsError('identity', 'secret-missing', `the vault holds no secret ${secretPath}`);
  }

  async #shown(grants: readonly GrantRecord[]): Promise<ShownGrant[]> {
    const shown: ShownGrant[] = [];
    for (const { clients, used, ...grant } of grants) {
      const named: ShownGrant['clients'] = [];
      for (const id of clients) named.push({ id, name: (await this.#clients.find(id))?.name ?? null });
      shown.push({ ...grant, clients: named, used: used.length });
    }
    return shown;
  }
}

function checkOwner(owner: string, path: SecretPath, secretPath: string): void {
  if (path.owner === owner) return;
  throw new HpcsError('identity', 'forbidden', `the secret ${secretPath} is not that of client ${owner}`);
}

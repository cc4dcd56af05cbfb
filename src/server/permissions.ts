import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import type { Clients, ClientRecord } from './clients.ts';
import type { PermitBody } from './names.ts';
import type { Store } from './store.ts';

const permit = z.object({
  /** Client id of the owner. */
  owner: z.string(),
  secret: z.string(),
  /** Client ids of those who may use it in a job, the owner aside. */
  clients: z.array(z.string()),
  /** Groups of clients who may. */
  groups: z.array(z.string()),
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
}

/**
 * Which clients may use whose artefacts in their jobs. Owner, submitter and the maker of the image may be three people: every
 * artefact of a job is judged by its own owner's grant.
 */
export class Permissions {
  readonly #store: Store;
  readonly #clients: Clients;

  constructor(store: Store, clients: Clients) {
    this.#store = store;
    this.#clients = clients;
  }

  /**
   * Lets clients use one secret of its owner in their jobs. The same may be asked for again.
   *
   * @throws HpcsError `identity`; code `bad-request` for a name that is nobody's, `conflict` where other principals were granted it
   */
  async permit(owner: string, body: PermitBody): Promise<Permitted> {
    const clients: Record<string, string> = {};
    for (const name of body.clients) clients[name] = (await this.#resolve(name)).id;
    const ids = [...new Set(Object.values(clients))].toSorted();
    const groups = body.groups.toSorted();
    const path = pathOf({ owner, secret: body.secret });
    const record: Permit = { owner, secret: body.secret, clients: ids, groups, created: new Date().toISOString() };
    if (!(await this.#store.write(path, record, 0))) {
      const found = (await this.#store.read(path, permit))?.value;
      if (JSON.stringify([found?.clients, found?.groups]) !== JSON.stringify([ids, groups])) {
        throw new HpcsError('identity', 'conflict', `the secret ${body.secret} of client ${owner} is already granted to others`);
      }
    }
    return { clients, groups };
  }

  /**
   * Makes sure that a client may use a secret now.
   *
   * @throws HpcsError `identity` with code `forbidden`, in the same words whether the secret exists or not
   */
  async check(submitter: string, path: SecretPath): Promise<void> {
    if (path.owner === submitter) return;
    const found = (await this.#store.read(pathOf(path), permit))?.value;
    if (found?.clients.includes(submitter) === true) return;
    if (found !== undefined && found.groups.length > 0) {
      const groups = (await this.#clients.find(submitter))?.groups ?? [];
      if (groups.some((group) => found.groups.includes(group))) return;
    }
    throw new HpcsError(
      'identity',
      'forbidden',
      `the secret client_${path.owner}/${path.secret} is not granted to client ${submitter}`,
    );
  }

  /** Forgets who may use a secret that is destroyed. @throws HpcsError `identity` */
  async forget(path: SecretPath): Promise<void> {
    await this.#store.remove(pathOf(path));
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

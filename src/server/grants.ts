import { HpcsError } from '../errors.ts';
import { formatSpiffeId, spiffeIds, type SpiffeId } from '../identity/spiffe-id.ts';
import type { Secret } from '../secret.ts';
import type { WorkloadsBody } from './bodies.ts';
import { Serial } from './serial.ts';
import { assertPlain, formatSelector, type NewEntry, type Selector, type Spire } from './spire.ts';
import type { Role, VaultAdmin } from './vault-admin.ts';

/** What {@link Grants} decides by. */
export interface GrantsOptions {
  trustDomain: string;
  /** Selectors of a client's workload that names no user id. */
  selectors: Selector[];
  /** Seconds. */
  joinTokenTtl: number;
  /** Seconds. */
  jwtSvidTtl: number;
}

/** A grant that stands, in the words of the API. */
export interface Grant {
  clientID: string;
  spiffeID: string;
  compute_nodes_added: Record<string, { users: string[]; groups: string[] }>;
  secrets_path: string;
  user_role: string;
}

/** Who may do what: makes identities in SPIRE and the matching roles in the vault, both or none. */
export class Grants {
  readonly #spire: Spire;
  readonly #vault: VaultAdmin;
  readonly #options: GrantsOptions;
  readonly #serial = new Serial();

  constructor(spire: Spire, vault: VaultAdmin, options: GrantsOptions) {
    this.#spire = spire;
    this.#vault = vault;
    this.#options = options;
  }

  /**
   * Makes a new client of whoever asks.
   *
   * @param uid the user id of its workload, if it said so
   * @param reserve takes an id that is and was no client's
   * @throws HpcsError `identity`; code `bad-request` when nothing would tell its workload from others
   */
  async register(
    uid: number | undefined,
    reserve: () => Promise<string>,
  ): Promise<{ clientId: string; spiffeId: string; joinToken: Secret }> {
    const { trustDomain, jwtSvidTtl, joinTokenTtl } = this.#options;
    const selectors = uid === undefined ? this.#options.selectors : [{ type: 'unix', value: `uid:${uid}` }];
    if (selectors.length === 0) {
      throw new HpcsError(
        'usage',
        'bad-request',
        'uid: expected the user id of the workload, for which no selectors are configured here',
      );
    }
    const clientId = await reserve();
    const agent = spiffeIds.clientAgent(trustDomain, clientId);
    const workload = spiffeIds.clientWorkload(trustDomain, clientId);
    if ((await this.#spire.listEntries(workload)).length > 0) return this.register(uid, reserve);
    await using undo = new AsyncDisposableStack();
    const made = await this.#spire.createEntries([{ spiffeId: workload, parentId: agent, selectors, jwtSvidTtl }]);
    undo.defer(() => quietly(this.#spire.deleteEntries(made)));
    undo.defer(() => quietly(this.#vault.removeClient(clientId)));
    await this.#vault.writeClient(clientId, workload);
    const joinToken = await this.#spire.createJoinToken(agent, joinTokenTtl);
    undo.move();
    return { clientId, spiffeId: formatSpiffeId(agent), joinToken };
  }

  /** A join token for the agent of a compute node. @throws HpcsError `identity` */
  async nodeToken(hostname: string): Promise<{ spiffeId: string; joinToken: Secret }> {
    const id = spiffeIds.node(this.#options.trustDomain, hostname);
    return { spiffeId: formatSpiffeId(id), joinToken: await this.#spire.createJoinToken(id, this.#options.joinTokenTtl) };
  }

  /**
   * Lets users and groups on nodes read one secret of a client.
   *
   * The same grant may be asked for again; that completes one that failed on its way, and makes nothing twice. The vault's role is
   * written last: where it exists, the grant was complete. SPIRE is called once for each thousand of readers, to list and to make.
   *
   * @param report told how many of the readers there are
   * @throws HpcsError `identity`; code `conflict` where that secret has other readers
   */
  async grant(
    clientId: string,
    body: Omit<WorkloadsBody, 'jwt'>,
    report: (done: number, total: number) => void = () => undefined,
  ): Promise<Grant> {
    const { trustDomain, jwtSvidTtl } = this.#options;
    const { reader, path, role } = this.#readerOf(clientId, body.secret);
    const selectors = [
      ...body.users.map((user): Selector => ({ type: 'unix', value: `user:${user}` })),
      ...body.groups.map((group): Selector => ({ type: 'unix', value: `supplementary_group:${group}` })),
    ];
    const wanted = body.compute_nodes.flatMap((node) =>
      selectors.map((selector): NewEntry => ({
        spiffeId: reader,
        parentId: spiffeIds.node(trustDomain, node),
        selectors: [selector],
        jwtSvidTtl,
      })),
    );
    await this.#serial.run(path, async () => {
      const complete = await this.#vault.hasRole(role);
      const found = await this.#spire.listEntries(reader);
      for (const entry of found) assertPlain(entry);
      const existing = new Set(found.map(entryKey));
      const missing = new Map(wanted.map((entry) => [entryKey(entry), entry]));
      const total = missing.size;
      const others = [...existing].some((key) => !missing.delete(key));
      if (others || (complete && missing.size > 0)) {
        throw new HpcsError('identity', 'conflict', `the secret ${body.secret} of client ${clientId} already has other readers`);
      }
      const there = total - missing.size;
      report(there, total);
      const made = await this.#spire.createEntries([...missing.values()], (done) => report(there + done, total));
      try {
        await this.#vault.writeReader(role, path);
      } catch (error) {
        await this.#takeBack(made, error);
        throw error;
      }
    });
    return {
      clientID: clientId,
      spiffeID: formatSpiffeId(reader),
      compute_nodes_added: Object.fromEntries(
        body.compute_nodes.map((node) => [node, { users: body.users, groups: body.groups }]),
      ),
      secrets_path: path,
      user_role: role.name,
    };
  }

  /** Readers of a secret: what SPIRE must see on which agent, such as `unix:user:alice` on `/h/cn01`. @throws HpcsError `identity` */
  async readers(clientId: string, secret: string): Promise<{ node: string; selector: string }[]> {
    const entries = await this.#spire.listEntries(this.#readerOf(clientId, secret).reader);
    return entries.map(({ parentId, selectors }) => ({
      node: parentId.path.replace(/^\/h\//, ''),
      selector: selectors.map(formatSelector).join(' '),
    }));
  }

  /**
   * Takes a secret from all its readers: from those who hold a token of the vault at once, from the others at their next login.
   *
   * @returns how many readers there were
   * @throws HpcsError `identity`
   */
  async revoke(clientId: string, secret: string): Promise<number> {
    const { reader, path, role } = this.#readerOf(clientId, secret);
    return this.#serial.run(path, async () => {
      await this.#vault.removeReader(role);
      const entries = await this.#spire.listEntries(reader);
      await this.#spire.deleteEntries(entries.map(({ id }) => id));
      await this.#vault.forget(reader);
      return entries.length;
    });
  }

  #readerOf(clientId: string, secret: string): { reader: SpiffeId; path: string; role: Role } {
    const reader = spiffeIds.reader(this.#options.trustDomain, clientId, secret);
    const path = `client_${clientId}/${secret}`;
    return { reader, path, role: { name: `client_${clientId}-${secret}`, policy: path, subject: reader } };
  }

  async #takeBack(made: string[], error: unknown): Promise<void> {
    try {
      await this.#spire.deleteEntries(made);
    } catch (second) {
      throw new HpcsError('identity', 'half-done', 'the grant failed half way and could not be taken back', {
        cause: new AggregateError([error, second]),
        suggestion: 'repeat the same request, which completes it',
      });
    }
  }
}

function entryKey({ parentId, selectors }: Pick<NewEntry, 'parentId' | 'selectors'>): string {
  return `${formatSpiffeId(parentId)} ${selectors.map(formatSelector).sort().join(' ')}`;
}

// What is undone here belongs to a client that nobody will ever be: what cannot be undone does no harm.
async function quietly(task: Promise<void>): Promise<void> {
  await task.catch(() => undefined);
}

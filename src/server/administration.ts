import { HpcsError, messageOf } from '../errors.ts';
import { formatSpiffeId, spiffeIds } from '../identity/spiffe-id.ts';
import { Access, type Undestroyed } from './access.ts';
import { Clients } from './clients.ts';
import type { ServerConfig } from './config.ts';
import { Grants } from './grants.ts';
import { namedIdentity } from './issuer-rules.ts';
import { Permissions } from './permissions.ts';
import { openVault } from './server.ts';
import { spireReach } from './reach.ts';
import { Spire } from './spire.ts';
import { Store } from './store.ts';
import type { VaultAdmin } from './vault-admin.ts';

/** A client as administrators are shown it. */
export interface ShownClient {
  id: string;
  name: string;
  groups: string[];
  created: string;
  /** When it was removed; absent for one that was not. */
  removed?: string | undefined;
  /** Thumbprints of its keys, enrolled or of logins (RFC 7638). */
  keys: string[];
}

/** A removed client. */
export interface RemovedClient {
  id: string;
  name: string;
  /** How many of its secrets were destroyed. */
  destroyed: number;
  /** How many it leaves in the vault, which its grants to others still open. */
  left: number;
}

/** All clients, the removed too. @param unknown told of each record of an unknown form @throws HpcsError `identity` */
export async function listClients(config: ServerConfig, unknown: (error: HpcsError) => void): Promise<ShownClient[]> {
  await using vault = await openVault(config);
  const all = await clientsOf(config, vault).all(unknown);
  return all
    .map(({ id, name, groups, created, removed, keys }) => ({ id, name, groups, created, ...(removed && { removed }), keys }))
    .toSorted((a, b) => a.created.localeCompare(b.created));
}

/**
 * Removes a client. In this order: its policy in the vault, which ends tokens that were given at once; its record, so that no proof
 * and no token of SPIRE counts at the HPCS server, and no job of it gets keys, with its keys and enrolment tokens; its role; its entries
 * in SPIRE; what the vault remembers of it; its agents. May be repeated, which completes it.
 *
 * @param named id, the name that it was enrolled under, or that of its issuer (`oidc:<alias>:<subject>`)
 * @param options.destroy its secrets, too
 * @param options.stays told of an agent, as a SPIFFE ID, that SPIRE does not let this server remove: it gets nothing of the client's
 * @throws HpcsError `identity`, with code `half-done` naming what of its secrets could not be destroyed; `usage` for a name that is
 * nobody's, or several clients'
 */
export async function removeClient(
  config: ServerConfig,
  named: string,
  options: { destroy: boolean; stays: (agent: string) => void },
): Promise<RemovedClient> {
  await using vault = await openVault(config);
  using spire = new Spire(spireReach(config));
  const trustDomain = config['spire-server']['trust-domain'];
  return await removeFrom({ vault, spire, clients: clientsOf(config, vault), trustDomain }, named, options);
}

/** As {@link removeClient}, from what is open already. */
export async function removeFrom(
  { vault, spire, clients, trustDomain }: { vault: VaultAdmin; spire: Spire; clients: Clients; trustDomain: string },
  named: string,
  { destroy, stays }: { destroy: boolean; stays: (agent: string) => void },
): Promise<RemovedClient> {
  const id = (await clients.idOf(named)) ?? named;
  // One that SPIRE alone knows, or whose removal was interrupted, is named by its id.
  if (!/^[0-9a-f]{9}$/.test(id)) throw unknownClient(named);
  await vault.removeClient(id);
  const found = await clients.find(id);
  await clients.remove(id);
  // A call of it that was under way may have written them again.
  await vault.removeClient(id);
  const workload = spiffeIds.clientWorkload(trustDomain, id);
  const aliases = await spire.listEntries(spiffeIds.clientAgent(trustDomain, id));
  await spire.deleteEntries((await spire.listEntries(workload)).map(({ id: entry }) => entry));
  await vault.forget(workload);
  // SPIRE made these, beside join tokens. Where it confines this server, they stay behind.
  await unlessForbidden(spire.deleteEntries(aliases.map(({ id: entry }) => entry)), () => undefined);
  // A join token makes its agent an alias of the client's: the entry hangs below that agent.
  for (const { parentId } of aliases) await unlessForbidden(spire.deleteAgent(parentId), () => stays(formatSpiffeId(parentId)));
  const name = found?.name ?? id;
  if (!destroy) return { id, name, destroyed: 0, left: await secretsOf(vault, id) };
  const grants = new Grants(spire, vault, { trustDomain, selectors: [], joinTokenTtl: 60, jwtSvidTtl: 60 });
  const access = new Access(clients, new Permissions(new Store(vault), clients), grants, vault);
  const { destroyed, left } = await access.destroyAll(id);
  if (left.length > 0) throw undestroyed(id, destroyed, left);
  return { id, name, destroyed, left: 0 };
}

async function unlessForbidden(doing: Promise<void>, forbidden: () => void): Promise<void> {
  try {
    await doing;
  } catch (error) {
    if (!(error instanceof HpcsError && error.code === 'spire-refused')) throw error;
    forbidden();
  }
}

async function secretsOf(vault: VaultAdmin, id: string): Promise<number> {
  let count = 0;
  for await (const _path of vault.secretsOf(id, () => (count += 1))) count += 1;
  return count;
}

/**
 * Revokes one key for good; the client's other keys stay.
 *
 * @returns whose it was
 * @throws HpcsError `identity`; `usage` for a key that is nobody's
 */
export async function revokeKey(config: ServerConfig, thumbprint: string): Promise<{ client: string }> {
  await using vault = await openVault(config);
  const client = /^[A-Za-z0-9_-]{43}$/.test(thumbprint) ? await clientsOf(config, vault).revokeKey(thumbprint) : undefined;
  if (client !== undefined) return { client };
  throw new HpcsError('usage', 'key-unknown', `no key that counts has the thumbprint ${JSON.stringify(thumbprint)}`, {
    suggestion: 'see who has which: hpcs server clients',
  });
}

function clientsOf(config: ServerConfig, vault: VaultAdmin): Clients {
  return new Clients(new Store(vault), vault, config['spire-server']['trust-domain'], (name) =>
    namedIdentity(config.issuers, name),
  );
}

/** So many paths are named. */
const named = 20;

/** What is said of a client whose secrets could not all be destroyed. The names are the client's: anything may stand in them. */
export function undestroyed(id: string, destroyed: number, left: readonly Undestroyed[]): HpcsError {
  const names = left.slice(0, named).map(({ path, error }) => `${JSON.stringify(path)} (${messageOf(error)})`);
  const more = left.length > named ? ` and ${left.length - named} more` : '';
  return new HpcsError(
    'identity',
    'half-done',
    `client ${id} is removed, and of its keys ${destroyed} are destroyed, but these are not: ${names.join(', ')}${more}`,
    {
      cause: new AggregateError(left.map(({ error }) => error)),
      suggestion: `repeat it (server remove ${id} --destroy-artefacts); what the vault refuses or lists still, its administrator has to destroy`,
    },
  );
}

function unknownClient(named: string): HpcsError {
  return new HpcsError('usage', 'client-unknown', `no client here is called ${JSON.stringify(named)}`, {
    suggestion: 'see who is: hpcs server clients',
  });
}

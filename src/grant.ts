import type { Workloads } from './hpcs.ts';
import type { ClientIdentity } from './identity/client-identity.ts';
import { secretName, type VaultRecord } from './record.ts';
import type { Services } from './services.ts';
import type { VaultSession } from './vault.ts';

/** Who may read an artefact, in the site's terms. */
export interface Readers {
  users: readonly string[];
  groups: readonly string[];
  nodes: readonly string[];
}

/** This client towards the two services that grants are made with. */
export interface Granter {
  services: Services;
  identity: ClientIdentity;
  signal: AbortSignal;
}

/**
 * Makes a new secret that these readers may read, and stores its record. The grant comes first: a key that nobody may read yet is
 * of no use, and one without a record opens nothing.
 *
 * @param name what the secret's name begins with; the rest is random
 * @throws HpcsError `identity`
 */
export async function grantSecret(
  name: string,
  readers: Readers,
  record: Omit<VaultRecord, 'owner'>,
  granter: Granter,
): Promise<Workloads> {
  const { services, identity, signal } = granter;
  const grant = await services.server.createWorkloads({
    jwt: await identity.jwt(services.audiences.hpcsServer),
    secret: secretName(name),
    users: readers.users,
    groups: readers.groups,
    computeNodes: readers.nodes,
    signal,
  });
  await using session = await vaultSession(granter);
  await session.writeNew(grant.secretPath, { ...record, owner: identity.spiffeId }, signal);
  return grant;
}

/** Proves that keys can be stored, before anything is made that needs it. @throws HpcsError `identity` */
export async function checkVault(granter: Granter): Promise<void> {
  await using _session = await vaultSession(granter);
}

async function vaultSession({ services, identity, signal }: Granter): Promise<VaultSession> {
  return services.vault.login(`client_${identity.clientId}`, await identity.jwt(services.audiences.vault), signal);
}

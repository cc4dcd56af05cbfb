import { HpcsError, messageOf } from './errors.ts';
import { isRefusedCall, type Conditions } from './hpcs.ts';
import type { ClientIdentity } from './identity/identity.ts';
import { secretName, type VaultRecord } from './record.ts';
import type { Services } from './services.ts';
import type { VaultSession } from './vault.ts';

/**
 * How jobs get keys: `job`, with an identity of each job's own that its submitter vouches for; `agent`, as UNIX users and groups on
 * nodes that SPIRE agents attest.
 */
export type AccessMode = 'job' | 'agent';

/** Who may read an artefact: clients of the HPCS server and their groups; in agent mode, users and groups of the site on its nodes. */
export interface Readers {
  users: readonly string[];
  groups: readonly string[];
  nodes: readonly string[];
  /** What must hold beside, for others than the owner. */
  conditions?: Conditions | undefined;
}

/** So many readers take no time that anybody would notice. */
const worthTelling = 1000;

/** This client towards the two services that grants are made with. */
export interface Granter {
  services: Services;
  identity: ClientIdentity;
  mode: AccessMode;
  signal: AbortSignal;
  /** Told how far a large grant is. */
  progress?: ((line: string) => void) | undefined;
  /** Told of what could not be taken back. */
  warn?: ((line: string) => void) | undefined;
}

/** A secret in the vault, and who its readers are there. */
export interface GrantedSecret {
  /** Path below `kv/data/` in the vault. */
  secretPath: string;
  /** The readers' role, which exists in agent mode only. */
  role: string;
  /** SPIFFE ID of the readers. */
  spiffeId: string;
}

/**
 * Makes a new secret that these readers may read, and stores its record. The grant comes first: a key that nobody may read yet is
 * of no use, and one without a record opens nothing.
 *
 * @param name what the secret's name begins with; the rest is random
 * @param undo takes it back: from now on, since the server goes on with a grant also where nobody waits for its answer any more. What
 * cannot be taken back is said through `warn`
 * @throws HpcsError `identity`
 */
export async function grantSecret(
  name: string,
  readers: Readers,
  record: Omit<VaultRecord, 'owner'>,
  granter: Granter,
  undo: AsyncDisposableStack,
): Promise<GrantedSecret> {
  const { identity, signal } = granter;
  const secret = secretName(name);
  let refused = false;
  undo.defer(async () => {
    if (!refused) await takeBack(`client_${identity.clientId}/${secret}`, granter);
  });
  const grant = await makeGrant(secret, readers, granter).catch((error: unknown) => {
    refused = isRefusedCall(error);
    throw error;
  });
  await using session = await vaultSession(granter);
  await session.writeNew(grant.secretPath, { ...record, owner: identity.spiffeId }, signal);
  return grant;
}

/** Destroys a secret that nothing will use, and all grants of it. */
async function takeBack(secretPath: string, { services, identity, warn }: Granter): Promise<void> {
  const limit = takingBack();
  try {
    await services.server.destroySecret(secretPath, identity.prove, limit);
  } catch (error) {
    const why = limit.aborted ? `no answer within ${takeBackPatience / 1000} s` : messageOf(error);
    warn?.(
      `the secret ${secretPath}, which nothing will use, may stay in the vault: ${why}; destroy it later: hpcs access destroy ${secretPath}`,
    );
  }
}

/**
 * Longest wait for what is taken back, in milliseconds. Somebody may have interrupted, and what is left to do is not done when he does it
 * once more. The server needs a moment for the key, and goes on with the rest by itself.
 */
const takeBackPatience = 15_000;

/** A signal for a call that takes something back: not the caller's, which may be why. */
export function takingBack(): AbortSignal {
  return AbortSignal.timeout(takeBackPatience);
}

/**
 * The readers that a grant is to name. In job mode each user is a client, which must exist. One's own user name on the site, which
 * command lines of the original hold, means oneself where nobody is enrolled under it: the owner needs no grant. Where somebody else
 * is, it could mean either, and is refused.
 *
 * @param username the caller's, on the site
 * @throws HpcsError `usage` for a name that is nobody's or two people's, and for conditions that nobody would check
 */
export async function knownReaders(
  readers: Readers,
  username: string,
  { services, identity, mode, signal }: Granter,
): Promise<Readers> {
  checkConditions(readers, mode);
  if (readers.conditions !== undefined) await requireConditions(services, signal);
  if (mode === 'agent' || readers.users.length === 0) return readers;
  const ids = await services.server.resolve(readers.users, identity.prove, signal);
  const users = readers.users.filter((name) => ids[name] != null || name !== username);
  const unknown = users.filter((name) => ids[name] == null);
  if (unknown.length > 0) {
    throw new HpcsError('usage', 'client-unknown', `nobody is enrolled at the HPCS server as ${unknown.join(', ')}`, {
      suggestion: 'name clients with -u as those who run the server enrolled them, or by their ids; you need not name yourself',
    });
  }
  const namesake = users.includes(username) ? ids[username] : identity.clientId;
  if (namesake === identity.clientId) return { ...readers, users };
  throw new HpcsError(
    'usage',
    'client-ambiguous',
    `${username} is your user name on the site, and another client of the HPCS server is enrolled under that name`,
    { suggestion: `leave it out to mean yourself; to grant to that client, give its id: -u ${namesake}` },
  );
}

// A server that does not know conditions would grant without them.
async function requireConditions({ server }: Services, signal: AbortSignal): Promise<void> {
  if ((await server.capabilities(signal)).includes('access')) return;
  throw new HpcsError('identity', 'no-access-calls', 'the HPCS server knows no conditions of grants', {
    suggestion: 'ask those who run the server for a current one, or leave --grant-image, --grant-until and --grant-jobs out',
  });
}

function checkConditions({ users, groups, conditions }: Readers, mode: AccessMode): void {
  if (conditions === undefined) return;
  if (mode === 'agent') {
    throw new HpcsError('usage', 'conditions-unchecked', 'in agent mode nobody would check the conditions of a grant', {
      suggestion: 'set mode = job in section [identity], or leave --grant-image, --grant-until and --grant-jobs out',
    });
  }
  if (users.length + groups.length > 0) return;
  throw new HpcsError('usage', 'no-readers', 'conditions are for those whom you grant to, and nobody is named', {
    suggestion: 'name clients with -u or groups with -g',
  });
}

async function makeGrant(
  secret: string,
  readers: Readers,
  { services, identity, mode, signal, progress }: Granter,
): Promise<GrantedSecret> {
  const { server, audiences } = services;
  if (mode === 'job') {
    const { users: clients, groups, conditions } = readers;
    return server.permit({ secret, clients, groups, ...conditions }, identity.prove, signal);
  }
  return server.createWorkloads({
    jwt: await identity.jwt(audiences.hpcsServer),
    secret,
    users: readers.users,
    groups: readers.groups,
    computeNodes: readers.nodes,
    signal,
    onProgress: (done, total) => {
      if (total > worthTelling) progress?.(`granted to ${done} of ${total} readers`);
    },
  });
}

/** Proves that keys can be stored, before anything is made that needs it. @throws HpcsError `identity` */
export async function checkVault(granter: Granter): Promise<void> {
  await using _session = await vaultSession(granter);
}

/**
 * How jobs are to get their keys, as configured or as the HPCS server has it: one that knows jobs gives each its own identity.
 *
 * @throws HpcsError `identity` when it does not answer, or cannot do what is configured
 */
export async function accessMode(
  configured: 'auto' | 'connected' | AccessMode,
  services: Services,
  signal: AbortSignal,
): Promise<AccessMode> {
  if (configured === 'agent') return 'agent';
  if ((await services.server.capabilities(signal)).includes('jobs')) return 'job';
  if (configured === 'auto') return 'agent';
  throw new HpcsError('identity', 'no-job-identities', 'the HPCS server gives jobs no identities of their own', {
    suggestion: 'set mode = agent in section [identity], or ask those who run the server for a current one',
  });
}

async function vaultSession({ services, identity, signal }: Granter): Promise<VaultSession> {
  return services.vault.login(`client_${identity.clientId}`, await identity.jwt(services.audiences.vault), signal);
}

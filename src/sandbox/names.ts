/** The SPIFFE trust domain of the sandbox. */
export const trustDomain = 'sandbox.hpcs';

/** Every container, volume and network of a sandbox carries this label; its value is the sandbox's name. */
export const sandboxLabel = 'io.github.hpcs-client.sandbox';

/** The value of this label is the run of `up` that made a container. */
export const runLabel = 'io.github.hpcs-client.sandbox.run';

/** Name of the sandbox where no other is given: of its network, and the beginning of those of its containers and volumes. */
export const defaultName = 'hpcs-sandbox';

/** The parts, by their host names in the network, which are the same in every sandbox. */
export const parts = {
  spireServer: 'hpcs-sandbox-spire-server',
  spireAgent: 'hpcs-sandbox-spire-agent',
  oidc: 'hpcs-sandbox-oidc',
  openbao: 'hpcs-sandbox-openbao',
  hpcsServer: 'hpcs-sandbox-hpcs-server',
  /** A second HPCS server on the same SPIRE and vault, for clients of the original: only where it was asked for. */
  legacyServer: 'hpcs-sandbox-hpcs-server-legacy',
  site: 'hpcs-sandbox-site',
} as const;
/** A part of the sandbox. */
export type Part = keyof typeof parts;

/**
 * What the engine calls a container or volume of a sandbox, so that several can be up at once.
 *
 * @param name the sandbox's
 * @param host host name or volume as it is called in the default sandbox
 */
export function engineName(name: string, host: string): string {
  return name + host.slice(defaultName.length);
}

/** Ports inside the network. */
export const ports = { spireServer: 8081, oidc: 8443, openbao: 8200, hpcsServer: 10080, legacyServer: 10080, site: 22 } as const;

/** Volumes: what parts share, and the vault's storage. */
export const volumes = {
  admin: 'hpcs-sandbox-spire-admin',
  agent: 'hpcs-sandbox-spire-agent',
  site: 'hpcs-sandbox-site',
  scratch: 'hpcs-sandbox-scratch',
  vault: 'hpcs-sandbox-vault',
} as const;

/** Where the shared volumes with sockets lie in containers. */
export const sockets = { admin: '/run/spire-admin/api.sock', agent: '/run/spire-agent/api.sock' } as const;

/** User and group id of the HPCS server. The SPIRE server's admin socket belongs to the same group. */
export const serverUid = 10_080;

/** User id of the server that is open to anyone: another, so that SPIRE tells the two apart. */
export const legacyUid = 10_081;

/** Roles of the two servers in the vault. */
export const serverRoles = { hpcsServer: 'hpcs-server', legacyServer: 'hpcs-server-legacy' } as const;

/** SPIFFE IDs of the two servers. */
export const serverIds = {
  hpcsServer: `spiffe://${trustDomain}/hpcs-server/workload`,
  legacyServer: `spiffe://${trustDomain}/hpcs-server/legacy`,
} as const;

/** What OpenBao and the OIDC provider call the issuer of tokens. */
export const issuer = `https://${parts.oidc}:${ports.oidc}`;

/** The user of the site that clients log in as, and the project's directory there. */
export const site = { user: 'alice', scratch: '/scratch/project_462000031' } as const;

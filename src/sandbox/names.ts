/** The SPIFFE trust domain of the sandbox. */
export const trustDomain = 'sandbox.hpcs';

/** Every container, volume and network of the sandbox carries this label; its value is the run of `up` that made it. */
export const sandboxLabel = 'io.github.hpcs-client.sandbox';

/** The one network: clients in containers join it too. */
export const network = 'hpcs-sandbox';

/** The parts, by container name. */
export const parts = {
  spireServer: 'hpcs-sandbox-spire-server',
  spireAgent: 'hpcs-sandbox-spire-agent',
  oidc: 'hpcs-sandbox-oidc',
  openbao: 'hpcs-sandbox-openbao',
  hpcsServer: 'hpcs-sandbox-hpcs-server',
  site: 'hpcs-sandbox-site',
} as const;
/** A part of the sandbox. */
export type Part = keyof typeof parts;

/** Ports inside the network. */
export const ports = { spireServer: 8081, oidc: 8443, openbao: 8200, hpcsServer: 10080, site: 22 } as const;

/** Volumes that parts share. */
export const volumes = {
  admin: 'hpcs-sandbox-spire-admin',
  agent: 'hpcs-sandbox-spire-agent',
  site: 'hpcs-sandbox-site',
  scratch: 'hpcs-sandbox-scratch',
} as const;

/** Where the shared volumes with sockets lie in containers. */
export const sockets = { admin: '/run/spire-admin/api.sock', agent: '/run/spire-agent/api.sock' } as const;

/** User and group id of the HPCS server. The SPIRE server's admin socket belongs to the same group. */
export const serverUid = 10_080;

/** What OpenBao and the OIDC provider call the issuer of tokens. */
export const issuer = `https://${parts.oidc}:${ports.oidc}`;

/** The user of the site that clients log in as, and the project's directory there. */
export const site = { user: 'alice', scratch: '/scratch/project_462000031' } as const;

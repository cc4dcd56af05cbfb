import { generateKeyPairSync } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { FastifyInstance } from 'fastify';
import { SignJWT } from 'jose';
import { Access } from '../../src/server/access.ts';
import { makeApi, type ApiOptions } from '../../src/server/api.ts';
import { Clients } from '../../src/server/clients.ts';
import { Grants } from '../../src/server/grants.ts';
import { Health } from '../../src/server/health.ts';
import { Issuers } from '../../src/server/issuers.ts';
import { Jobs } from '../../src/server/jobs.ts';
import { JwtSvidVerifier } from '../../src/server/jwt-svid.ts';
import { Logins } from '../../src/server/logins.ts';
import { Permissions } from '../../src/server/permissions.ts';
import { Spire } from '../../src/server/spire.ts';
import { Store } from '../../src/server/store.ts';
import { VaultAdmin } from '../../src/server/vault-admin.ts';
import { Secret } from '../../src/secret.ts';
import { Vault } from '../../src/vault.ts';

const issuers = await Issuers.open([]);
const key = generateKeyPairSync('ec', { namedCurve: 'P-256' });

/** The API of a server of `example.org`. Everything is real but that SPIRE and the vault do not run: what is refused, is before either is asked. */
export function lonelyApi(change: Partial<ApiOptions> = {}): FastifyInstance {
  const spire = new Spire('/nonexistent/api.sock');
  const vault = new VaultAdmin(new Vault({ url: 'https://127.0.0.1:1' }), {
    url: 'https://127.0.0.1:1',
    role: 'hpcs-server',
    audience: ['vault'],
    jwt: async () => new Secret('x'),
  });
  const store = new Store(vault);
  const clients = new Clients(store, vault, 'example.org');
  const permissions = new Permissions(store, clients);
  const grants = new Grants(spire, vault, { trustDomain: 'example.org', selectors: [], joinTokenTtl: 300, jwtSvidTtl: 300 });
  return makeApi({
    clients,
    logins: new Logins(store, clients, issuers, () => undefined),
    permissions,
    access: new Access(clients, permissions, grants, vault),
    nodes: [],
    jobs: new Jobs(store, spire, vault, permissions, {
      trustDomain: 'example.org',
      audience: 'vault',
      audit: () => undefined,
      mostWaiting: 1000,
    }),
    trustDomain: 'example.org',
    audiences: ['hpcs-server', 'vault'],
    mint: async () => new Secret('x'),
    isOwn: ({ origin }) => origin === 'https://hpcs.example.org',
    grants,
    verifier: new JwtSvidVerifier({
      trustDomain: 'example.org',
      audience: ['hpcs-server'],
      authorities: async () => [{ keyId: 'k', publicKey: key.publicKey.export({ format: 'der', type: 'spki' }) }],
    }),
    trustBundle: async () => (await spire.bundle()).x509,
    health: new Health({ spire: () => spire.bundle(), vault: () => vault.check() }),
    allowLegacyRegistration: true,
    log: false,
    ...change,
  });
}

/** A JWT-SVID of a client of that server's trust domain. */
export async function clientToken(audience: string, client = '0123456af'): Promise<string> {
  return new SignJWT({})
    .setProtectedHeader({ alg: 'ES256', kid: 'k' })
    .setSubject(`spiffe://example.org/c/${client}/workload`)
    .setAudience(audience)
    .setExpirationTime('1m')
    .sign(key.privateKey);
}

/** Resolves when a server has noticed that all its callers are gone. */
export async function noConnections(app: FastifyInstance): Promise<void> {
  const count = promisify(app.server.getConnections.bind(app.server));
  while ((await count()) > 0) await sleep(5);
}

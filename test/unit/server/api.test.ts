import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import { SignJWT } from 'jose';
import { makeApi } from '../../../src/server/api.ts';
import { Clients } from '../../../src/server/clients.ts';
import { Grants } from '../../../src/server/grants.ts';
import { Health } from '../../../src/server/health.ts';
import { JwtSvidVerifier } from '../../../src/server/jwt-svid.ts';
import { Jobs } from '../../../src/server/jobs.ts';
import { Permissions } from '../../../src/server/permissions.ts';
import { Spire } from '../../../src/server/spire.ts';
import { Store } from '../../../src/server/store.ts';
import { VaultAdmin } from '../../../src/server/vault-admin.ts';
import { Secret } from '../../../src/secret.ts';
import { Vault } from '../../../src/vault.ts';

// Everything is real but that SPIRE and the vault do not run: what is refused here is refused before either is asked.
const key = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const lines: string[] = [];

function api(allowLegacyRegistration: boolean): FastifyInstance {
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
  return makeApi({
    clients,
    permissions,
    jobs: new Jobs(store, spire, vault, permissions, { trustDomain: 'example.org', audience: 'vault', audit: () => undefined }),
    trustDomain: 'example.org',
    audiences: ['hpcs-server', 'vault'],
    mint: async () => new Secret('x'),
    isOwn: ({ origin }) => origin === 'https://hpcs.example.org',
    grants: new Grants(spire, vault, { trustDomain: 'example.org', selectors: [], joinTokenTtl: 300, jwtSvidTtl: 300 }),
    verifier: new JwtSvidVerifier({
      trustDomain: 'example.org',
      audience: ['hpcs-server'],
      authorities: async () => [{ keyId: 'k', publicKey: key.publicKey.export({ format: 'der', type: 'spki' }) }],
    }),
    trustBundle: async () => (await spire.bundle()).x509,
    health: new Health({ spire: () => spire.bundle(), vault: () => vault.check() }),
    allowLegacyRegistration,
    log: { write: (line) => void lines.push(line) },
  });
}

async function token(aud: string): Promise<string> {
  return new SignJWT({})
    .setProtectedHeader({ alg: 'ES256', kid: 'k' })
    .setSubject('spiffe://example.org/c/0123456af/workload')
    .setAudience(aud)
    .setExpirationTime('1m')
    .sign(key.privateKey);
}

const body = (jwt: string): object => ({ jwt, secret: 'x', users: ['u'], groups: null, compute_nodes: ['n'] });

describe('API of the server', () => {
  let app: FastifyInstance;
  beforeEach(() => {
    lines.length = 0;
    app = api(true);
  });
  afterEach(() => app.close());

  const post = async (path: string, payload?: object | string, headers = {}): Promise<[number, Record<string, unknown>]> => {
    const answer = await app.inject({ method: 'POST', path, headers, ...(payload === undefined ? {} : { payload }) });
    return [answer.statusCode, answer.json()];
  };

  it('registers nobody unless told so', async () => {
    await app.close();
    app = api(false);
    for (const path of ['/api/client/register', '/api/agents/token?hostname=cn01']) {
      const [status, answer] = await post(path);
      assert.equal(status, 403);
      assert.equal(answer['success'], false);
      assert.match(String(answer['message']), /--allow-legacy-registration/);
    }
  });

  it('refuses names that are none', async () => {
    for (const hostname of ['..', 'a%2Fb', '*', 'a%0Ab', '']) {
      const [status, answer] = await post(`/api/agents/token?hostname=${hostname}`);
      assert.equal(status, 400, hostname);
      assert.match(String(answer['message']), /hostname: expected a host name/);
    }
    assert.equal((await post('/api/agents/token'))[0], 400);
  });

  it('refuses a body that is none', async () => {
    const json = { 'content-type': 'application/json' };
    for (const text of ['', '{', '[]', '"x"', 'null'])
      assert.equal((await post('/api/client/create-workloads', text, json))[0], 400, text);
    assert.equal((await post('/api/client/create-workloads', 'x', { 'content-type': 'text/plain' }))[0], 400);
    assert.equal((await post('/api/client/create-workloads', `"${'x'.repeat(1024 * 1024)}"`, json))[0], 413);
  });

  it('asks for the user id where no selectors are configured', async () => {
    const [status, answer] = await post('/api/client/register');
    assert.equal(status, 400);
    assert.match(String(answer['message']), /uid: expected/);
  });

  it('authenticates by the token alone', async () => {
    const [status, answer] = await post('/api/client/create-workloads', body(await token('vault')), {
      'remote-addr': '10.0.0.1',
      'x-forwarded-for': '10.0.0.1',
    });
    assert.equal(status, 401);
    assert.match(String(answer['message']), /another audience/);
  });

  it('says 503 while SPIRE or the vault does not answer', async () => {
    const [status, answer] = await post('/api/client/create-workloads', body(await token('hpcs-server')));
    assert.equal(status, 503);
    assert.match(String(answer['message']), /vault/);
    assert.equal((await post('/api/client/register', { uid: 1000 }))[0], 503);
    assert.equal((await app.inject('/api/trust-bundle')).statusCode, 503);
    const ready = await app.inject('/readyz');
    assert.equal(ready.statusCode, 503);
    assert.deepEqual(ready.json(), { success: false, spire: 'spire-unavailable', vault: 'unreachable' });
    // Alive nevertheless: to start it anew would help nobody.
    assert.equal((await app.inject('/healthz')).statusCode, 200);
  });

  it('answers unknown calls with JSON', async () => {
    assert.deepEqual((await app.inject('/x')).json(), { success: false, message: 'no such call' });
  });

  it('logs what was asked, without tokens and queries', async () => {
    const jwt = await token('hpcs-server');
    await post('/api/client/create-workloads', body(jwt));
    await post('/api/agents/token?hostname=../&secret=s3cr3t');
    const log = lines.join('');
    assert.match(log, /"path":"\/api\/client\/create-workloads","status":503/);
    assert.match(log, /"path":"\/api\/agents\/token","status":400/);
    assert.ok(!log.includes(jwt));
    assert.ok(!log.includes('s3cr3t'));
  });
});

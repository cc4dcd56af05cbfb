import assert from 'node:assert/strict';
import { connect, type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import { HpcsError } from '../../../src/errors.ts';
import { generateProofKey, keyProver, thumbprintOf } from '../../../src/identity/proof.ts';
import { Secret } from '../../../src/secret.ts';
import { Clients } from '../../../src/server/clients.ts';
import { Metrics } from '../../../src/server/metrics.ts';
import { Store } from '../../../src/server/store.ts';
import { clientToken as token, lonelyApi, noConnections } from '../../support/api.ts';
import { SmallVault } from '../../support/small-vault.ts';

const lines: string[] = [];
const api = (allowLegacyRegistration: boolean, nodes: string[] = []): FastifyInstance =>
  lonelyApi({ allowLegacyRegistration, nodes, log: { write: (line) => void lines.push(line) } });

/** The lines of the audit log. */
const audits = (): Record<string, unknown>[] =>
  lines.map((line) => JSON.parse(line) as Record<string, unknown>).filter((line) => line['audit'] !== undefined);

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

  it('hands on the codes of keys that do not count, and no others', async () => {
    for (const [code, status, told] of [
      ['key-ended', 403, 'key-ended'],
      ['key-conflict', 409, 'key-conflict'],
      ['conflict', 409, undefined],
      ['vault-forbidden', 502, undefined],
    ] as const) {
      const refuse = (): never => {
        throw new HpcsError('identity', code, 'no');
      };
      const other = lonelyApi({ trustBundle: async () => refuse() });
      const answer = await other.inject('/api/trust-bundle');
      await other.close();
      assert.equal(answer.statusCode, status);
      assert.deepEqual(answer.json(), { success: false, message: 'no', ...(told !== undefined && { code: told }) });
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

  it('gives tokens of nodes to nobody where no host is allowed, and to nobody unknown where one is', async () => {
    const bearer = { authorization: `Bearer ${await token('hpcs-server')}` };
    await app.close();
    app = api(false);
    assert.equal((await post('/api/agents/token', { hostname: 'cn01' }, bearer))[0], 403);
    await app.close();
    app = api(false, ['cn01']);
    assert.equal((await post('/api/agents/token', { hostname: 'cn01' }))[0], 401);
    assert.equal((await post('/api/agents/token?hostname=cn01'))[0], 401);
    assert.equal((await post('/api/agents/token?hostname=cn01', undefined, bearer))[0], 400);
    for (const hostname of ['CN01', 'cn02', 'cn01.']) {
      const [status, answer] = await post('/api/agents/token', { hostname }, bearer);
      assert.equal(status, 403, hostname);
      assert.match(String(answer['message']), /does not allow it/);
    }
    // Allowed, but SPIRE does not answer.
    assert.equal((await post('/api/agents/token', { hostname: 'cn01' }, bearer))[0], 503);
    assert.match(lines.join(''), /"client":"0123456af","node":"cn02","msg":"node token asked for a host/);
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

  it('says why a call failed, not that what it left could not be removed either', async () => {
    await app.close();
    const down = new HpcsError('identity', 'vault-sealed', 'the vault is sealed');
    app = lonelyApi({
      trustBundle: async () => {
        await using undo = new AsyncDisposableStack();
        undo.defer(() => Promise.reject(new Error('not removed')));
        throw down;
      },
    });
    const answer = await app.inject('/api/trust-bundle');
    assert.equal(answer.statusCode, 503);
    assert.match(answer.body, /the vault is sealed/);
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

  it('writes one audit line for each call: who, by what, from where, and what became of it', async () => {
    await post('/api/client/create-workloads', body(await token('hpcs-server')));
    await post('/api/client/token', { audience: 'vault' });
    await app.inject('/healthz');
    const [failed, refused, ...more] = audits();
    assert.deepEqual(more, []);
    assert.deepEqual(
      [failed?.['audit'], failed?.['caller'], failed?.['by'], failed?.['from'], failed?.['code']],
      ['failed', '0123456af', 'jwt-svid', '127.0.0.1', 'unreachable'],
    );
    assert.deepEqual([refused?.['audit'], refused?.['status'], refused?.['code']], ['refused', 401, 'unauthenticated']);
    for (const line of audits()) assert.match(String(line['reqId']), /^[0-9a-f]{16}$/);
  });

  it('writes the same line of a grant that fails and counts it alike, whether or not its caller is told of the progress', async () => {
    await app.close();
    const metrics = new Metrics();
    app = lonelyApi({ metrics, log: { write: (line) => void lines.push(line) } });
    const jwt = await token('hpcs-server');
    for (const accept of ['application/json', 'application/x-ndjson'])
      await app.inject({ method: 'POST', path: '/api/client/create-workloads', headers: { accept }, payload: body(jwt) });
    const [plain, told] = audits().map(({ time: _time, reqId: _id, ms: _ms, ...rest }) => rest);
    assert.deepEqual([told?.['audit'], told?.['status'], told?.['code']], ['failed', 503, 'unreachable']);
    assert.deepEqual(told, plain);
    const text = await metrics.registry.metrics();
    assert.match(text, /^hpcs_requests_total\{call="POST \/api\/client\/create-workloads",status="503"\} 2$/m);
    assert.match(text, /^hpcs_refusals_total\{code="unreachable"\} 2$/m);
  });

  it('writes that line and counts the call when it has ended, too, where the caller has hung up', async () => {
    const get = 'GET /api/trust-bundle HTTP/1.1\r\nhost: x\r\n\r\n';
    const post = 'POST /api/client/token HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{';
    const sealed = new HpcsError('identity', 'vault-sealed', 'the vault is sealed');
    for (const [head, outcome, line] of [
      [get, async () => 'PEM', { audit: 'done', status: 200, code: undefined }],
      [get, () => Promise.reject(sealed), { audit: 'failed', status: 503, code: 'vault-sealed' }],
      [post, undefined, { audit: 'refused', status: 400, code: 'bad-request' }],
    ] as const) {
      await app.close();
      lines.length = 0;
      const [asked, gone] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      const metrics = new Metrics();
      app = lonelyApi({
        metrics,
        log: { write: (text) => void lines.push(text) },
        trustBundle: async () => {
          await gone.promise;
          return outcome?.() ?? '';
        },
      });
      app.addHook('onRequest', async () => asked.resolve());
      await app.listen({ port: 0, host: '127.0.0.1' });
      const caller = connect((app.server.address() as AddressInfo).port, '127.0.0.1').on('error', () => undefined);
      caller.write(head);
      await asked.promise;
      caller.destroy();
      await noConnections(app);
      if (outcome !== undefined) assert.deepEqual(audits(), []);
      gone.resolve();
      while (audits().length === 0) await sleep(5);
      const [{ audit, status, code, aborted, from } = {}, ...more] = audits();
      assert.deepEqual({ audit, status, code }, line);
      assert.deepEqual([aborted, from, more], [true, '127.0.0.1', []]);
      const counted = new RegExp(`^hpcs_requests_total\\{call=".*",status="${line.status}"\\} 1$`, 'm');
      assert.match(await metrics.registry.metrics(), counted);
    }
  });

  it('mints no token that outlives the session of its key', async () => {
    await app.close();
    const vault = new SmallVault();
    const clients = new Clients(new Store(vault.admin), vault.admin, 'example.org');
    const [enrolled, session] = [await generateProofKey(), await generateProofKey()];
    const { token: invited } = await clients.invite({ name: 'alice', groups: [], lifetime: 60 });
    await clients.enrol(invited, { thumbprint: await thumbprintOf(enrolled), id: 'x', issuedAt: Date.now() / 1000 });
    const expires = new Date(Date.now() + 60_000);
    const principal = { identity: 'oidc-people https://x bert', name: 'oidc:people:bert', groups: [] };
    await clients.admit(principal, await thumbprintOf(session), { expires, token: expires });
    const ends: (Date | undefined)[] = [];
    app = lonelyApi({ clients, mint: async (_client, _audience, until) => (ends.push(until), new Secret('x')) });
    for (const key of [enrolled, session]) {
      const payload = JSON.stringify({ audience: 'vault' });
      const url = 'https://hpcs.example.org/api/client/token';
      const { dpop } = await keyProver(key)({ method: 'POST', url, body: payload });
      const headers = { 'content-type': 'application/json', dpop: String(dpop) };
      assert.equal((await post('/api/client/token', payload, headers))[0], 200);
    }
    assert.deepEqual(ends, [undefined, expires]);
  });

  it('tells each caller the id that its request has in the log', async () => {
    const answer = await app.inject({ method: 'POST', path: '/api/client/token', headers: { 'x-request-id': 'mine' } });
    const id = String(answer.headers['x-request-id']);
    assert.notEqual(id, 'mine');
    assert.ok(lines.some((line) => (JSON.parse(line) as { reqId: string }).reqId === id));
  });
});

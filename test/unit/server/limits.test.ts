import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type AddressInfo, type Socket } from 'node:net';
import { duplexPair } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import { HpcsError } from '../../../src/errors.ts';
import { generateProofKey, keyProver, thumbprintOf } from '../../../src/identity/proof.ts';
import { Clients } from '../../../src/server/clients.ts';
import type { Grants } from '../../../src/server/grants.ts';
import { Health } from '../../../src/server/health.ts';
import { defaultLimits, isNetwork, type Limits } from '../../../src/server/limits.ts';
import { Metrics } from '../../../src/server/metrics.ts';
import { startMonitor } from '../../../src/server/monitor.ts';
import { UnderWay } from '../../../src/server/under-way.ts';
import { Store } from '../../../src/server/store.ts';
import { clientToken, lonelyApi, noConnections } from '../../support/api.ts';
import { SmallVault } from '../../support/small-vault.ts';

const lines: string[] = [];
const limited = (limits: Partial<Limits>, metrics = new Metrics()): FastifyInstance =>
  lonelyApi({ limits: { ...defaultLimits, ...limits }, metrics, log: { write: (line) => void lines.push(line) } });
const portOf = (app: FastifyInstance): number => (app.server.address() as AddressInfo).port;

describe('limits of the server', () => {
  beforeEach(() => void (lines.length = 0));

  it('are so many requests a minute of one address, but for those who watch over the server', async () => {
    await using app = limited({ perAddress: 3 });
    const ask = async (url: string, remoteAddress: string) => app.inject({ url, remoteAddress });
    for (let count = 0; count < 3; count += 1) assert.equal((await ask('/api/capabilities', '192.0.2.1')).statusCode, 200);
    const refused = await ask('/api/capabilities', '192.0.2.1');
    assert.equal(refused.statusCode, 429);
    assert.ok(Number(refused.headers['retry-after']) > 0 && Number(refused.headers['retry-after']) <= 60);
    assert.match(refused.body, /too many requests of this address: try again in \d+ s/);
    assert.match(lines.join(''), /"audit":"refused".*"code":"too-many-requests"/);
    assert.equal((await ask('/healthz', '192.0.2.1')).statusCode, 200);
    // What there is not counts too.
    assert.equal((await ask('/nothing', '192.0.2.1')).statusCode, 429);
    assert.equal((await ask('/api/capabilities', '192.0.2.2')).statusCode, 200);
    // Whoever has one address of IPv6 has all of its network.
    for (let count = 1; count <= 4; count += 1)
      assert.equal((await ask('/api/capabilities', `2001:db8::${count}`)).statusCode, count <= 3 ? 200 : 429);
    assert.equal((await ask('/api/capabilities', '2001:db8:0:1::1')).statusCode, 200);
  });

  it('are so many requests a minute of one client, wherever it is', async () => {
    await using app = limited({ perClient: 2 });
    const ask = async (client: string, remoteAddress: string) => {
      const jwt = await clientToken('hpcs-server', client);
      const payload = { jwt, secret: 'x', users: ['u'], groups: null, compute_nodes: ['n'] };
      return (await app.inject({ method: 'POST', url: '/api/client/create-workloads', payload, remoteAddress })).statusCode;
    };
    assert.deepEqual(
      [await ask('000000001', '192.0.2.1'), await ask('000000001', '192.0.2.2'), await ask('000000001', '192.0.2.3')],
      [503, 503, 429],
    );
    assert.equal(await ask('000000002', '192.0.2.1'), 503);
  });

  it('are asked before a proof is written down: what is refused leaves nothing in the vault', async () => {
    const vault = new SmallVault();
    const clients = new Clients(new Store(vault.admin), vault.admin, 'example.org');
    const key = await generateProofKey();
    const { token } = await clients.invite({ name: 'alice', groups: [], lifetime: 60 });
    await clients.enrol(token, { thumbprint: await thumbprintOf(key), id: 'x', issuedAt: Date.now() / 1000 });
    await using app = lonelyApi({ clients, limits: { ...defaultLimits, perClient: 3 } });
    const payload = JSON.stringify({ audience: 'vault' });
    const post = async (url: string): Promise<number> => {
      const proof = await keyProver(key)({ method: 'POST', url: `https://hpcs.example.org${url}`, body: payload });
      const headers = { 'content-type': 'application/json', dpop: String(proof['dpop']) };
      return (await app.inject({ method: 'POST', url, payload, headers })).statusCode;
    };
    const statuses = [await post('/api/client/token'), await post('/api/client/token'), await post('/api/client/logout')];
    assert.deepEqual(statuses, [200, 200, 200]);
    const proofs = vault.below('hpcs-server/proofs/').length;
    assert.equal(proofs, 4);
    assert.deepEqual([await post('/api/client/token'), await post('/api/client/logout')], [429, 429]);
    assert.equal(vault.below('hpcs-server/proofs/').length, proofs);
  });

  it('go by what trusted proxies say of where a request comes from, and by nobody else', async () => {
    const headers = { 'x-forwarded-for': '198.51.100.7, 192.0.2.9' };
    for (const [trustedProxies, from] of [
      [['192.0.2.0/24'], '198.51.100.7'],
      [[], '192.0.2.1'],
      [['203.0.113.1'], '192.0.2.1'],
    ] as const) {
      lines.length = 0;
      await using app = limited({ trustedProxies });
      await app.inject({ url: '/api/capabilities', headers, remoteAddress: '192.0.2.1' });
      assert.match(lines.join(''), new RegExp(`"from":"${from.replaceAll('.', '\\.')}"`));
    }
    for (const wrong of ['x', '10.0.0.0/33', '10.0.0.0/8/8', '', '::/129', '0.0.0.0/0'])
      assert.equal(isNetwork(wrong), false, wrong);
    for (const right of ['10.0.0.1', '10.0.0.0/8', '2001:db8::/32']) assert.equal(isNetwork(right), true, right);
  });

  it('are so many connections of one address', async () => {
    const metrics = new Metrics();
    await using app = limited({ maxConnectionsPerAddress: 3 }, metrics);
    await app.listen({ port: 0, host: '127.0.0.1' });
    const open = async (): Promise<Socket> => {
      const socket = connect(portOf(app), '127.0.0.1').on('error', () => undefined);
      await once(socket, 'connect');
      return socket;
    };
    const kept = [await open(), await open(), await open()];
    const refused = await open();
    await once(refused.resume(), 'close');
    assert.match(lines.join(''), /"from":"127\.0\.0\.1","connections":3,"msg":"too many connections"/);
    assert.match(await metrics.registry.metrics(), /hpcs_connections_dropped_total\{reason="limit"\} 1/);
    kept[0]?.destroy();
    await once(kept[0] as Socket, 'close');
    // Served again as soon as the server noticed.
    for (let served = false; !served;)
      served = await fetch(`http://127.0.0.1:${portOf(app)}/healthz`).then(({ ok }) => ok, () => false); // prettier-ignore
    for (const socket of kept) socket.destroy();
  });

  it('take a connection that has no address, since it was reset before anybody looked at it, for no fault of the server', async () => {
    await using app = limited({});
    await app.ready();
    const [caller, connection] = duplexPair();
    app.server.emit('connection', connection);
    caller.write('GET /api/capabilities HTTP/1.1\r\nhost: x\r\n\r\n');
    const [answer] = (await once(caller, 'data')) as [Buffer];
    assert.match(answer.toString(), /^HTTP\/1\.1 400 /);
    caller.destroy();
  });

  it('end what is no request, and say so in the log', async () => {
    await using app = limited({});
    await app.listen({ port: 0, host: '127.0.0.1' });
    const socket = connect(portOf(app), '127.0.0.1');
    let answer = '';
    socket.on('data', (part: Buffer) => (answer += part.toString())).write('\u0016\u0003\u0001 no request\r\n\r\n');
    await once(socket, 'close');
    assert.match(answer, /^HTTP\/1\.1 400 /);
    assert.match(lines.join(''), /"code":"HPE_INVALID_METHOD".*connection ended/);
  });
});

describe('readiness', () => {
  it('says of each part whether it is usable, and asks it once for many who want to know', async () => {
    let asked = 0;
    const vault = Promise.withResolvers<void>();
    const health = new Health({
      spire: async () => void (asked += 1),
      vault: () => vault.promise,
    });
    const both = Promise.all([health.readiness(), health.readiness()]);
    vault.reject(new HpcsError('identity', 'vault-sealed', 'x'));
    for (const found of await both) assert.deepEqual(found, { ready: false, parts: { spire: 'ok', vault: 'vault-sealed' } });
    await health.readiness();
    assert.equal(asked, 1);
  });

  it('does not wait for a part that says nothing', async () => {
    const health = new Health({ vault: () => new Promise(() => undefined) });
    assert.deepEqual(await health.readiness(), { ready: false, parts: { vault: 'no-answer' } });
  });

  it('stands, with the metrics, on a listener of its own', async () => {
    const metrics = new Metrics();
    const health = new Health({ spire: async () => undefined, vault: () => Promise.reject(new Error('x')) }, metrics);
    await using monitor = await startMonitor({ host: '127.0.0.1', port: 0 }, health, metrics);
    await using app = limited({}, metrics);
    await app.inject({ method: 'POST', url: '/api/agents/token?hostname=../secret' });
    await app.inject('/no/such/secret');
    const get = async (path: string, method = 'GET'): Promise<[number, string]> => {
      const answer = await fetch(`http://127.0.0.1:${monitor.port}${path}`, { method });
      return [answer.status, await answer.text()];
    };
    assert.deepEqual(await get('/healthz'), [200, '{"success":true}']);
    assert.deepEqual(await get('/readyz'), [503, '{"success":false,"spire":"ok","vault":"failed"}']);
    const [, text] = await get('/metrics');
    assert.match(text, /^hpcs_requests_total\{call="POST \/api\/agents\/token",status="400"\} 1$/m);
    assert.match(text, /^hpcs_requests_total\{call="unknown",status="404"\} 1$/m);
    assert.match(text, /^hpcs_refusals_total\{code="bad-request"\} 1$/m);
    assert.match(text, /^hpcs_part_up\{part="vault"\} 0$/m);
    assert.match(text, /^process_resident_memory_bytes \d+/m);
    assert.doesNotMatch(text, /secret/);
    assert.equal((await get('/api/capabilities'))[0], 404);
    assert.equal((await get('/metrics', 'POST'))[0], 404);
    // Callers of the server do not see them.
    assert.equal((await app.inject('/metrics')).statusCode, 404);
  });
});

describe('the end of the server', () => {
  it('answers what has arrived, waits for no idler, and takes nothing new', async () => {
    const answered = Promise.withResolvers<string>();
    const asked = Promise.withResolvers<void>();
    const trustBundle = (): Promise<string> => {
      asked.resolve();
      return answered.promise;
    };
    const underWay = new UnderWay();
    const app = lonelyApi({ trustBundle, underWay });
    await app.listen({ port: 0, host: '127.0.0.1' });
    const url = `http://127.0.0.1:${portOf(app)}`;
    const waiting = fetch(`${url}/api/trust-bundle`);
    await asked.promise;
    const slow = connect(portOf(app), '127.0.0.1')
      .on('error', () => undefined)
      .resume();
    slow.write('POST /api/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{');
    await once(slow, 'connect');
    const closing = underWay.close(app);
    await assert.rejects(fetch(`${url}/healthz`));
    answered.resolve('-----BEGIN CERTIFICATE-----');
    assert.equal((await waiting).status, 200);
    await closing;
    if (!slow.closed) await once(slow, 'close');
  });

  it('is not before all is done that it was asked for, also by callers who are gone', async () => {
    const jwt = await clientToken('hpcs-server');
    const grant = JSON.stringify({ jwt, secret: 'x', users: ['u'], groups: null, compute_nodes: ['n'] });
    const more = `content-type: application/json\r\naccept: application/x-ndjson\r\ncontent-length: ${grant.length}\r\n`;
    for (const [head, body] of [
      ['GET /api/trust-bundle HTTP/1.1\r\n', ''],
      [`POST /api/client/create-workloads HTTP/1.1\r\n${more}`, grant],
    ]) {
      const [asked, done] = [Promise.withResolvers<void>(), Promise.withResolvers<string>()];
      const work = async (): Promise<string> => (asked.resolve(), done.promise);
      const grants = { grant: work } as unknown as Grants;
      const underWay = new UnderWay();
      const app = lonelyApi({ trustBundle: work, grants, underWay });
      await app.listen({ port: 0, host: '127.0.0.1' });
      const caller = connect(portOf(app), '127.0.0.1').on('error', () => undefined);
      caller.write(`${head}host: x\r\n\r\n${body}`);
      await asked.promise;
      caller.destroy();
      await noConnections(app);
      let ended = false;
      const closing = underWay.close(app).then(() => (ended = true));
      await sleep(50);
      assert.equal(ended, false, head);
      done.resolve('');
      await closing;
    }
  });

  it('is not held up by a caller who hung up', async () => {
    const [asked, done] = [Promise.withResolvers<void>(), Promise.withResolvers<string>()];
    const underWay = new UnderWay();
    const app = lonelyApi({ trustBundle: async () => (asked.resolve(), done.promise), underWay });
    await app.listen({ port: 0, host: '127.0.0.1' });
    const caller = connect(portOf(app), '127.0.0.1').on('error', () => undefined);
    caller.write('GET /api/trust-bundle HTTP/1.1\r\nhost: x\r\n\r\n');
    await asked.promise;
    caller.destroy();
    await noConnections(app);
    done.resolve('');
    const idler = connect(portOf(app), '127.0.0.1')
      .on('error', () => undefined)
      .resume();
    idler.write('POST /api/jobs HTTP/1.1\r\n');
    await once(idler, 'connect');
    await underWay.close(app);
  });

  it('is seen in its readiness before', async () => {
    const health = new Health({ spire: async () => undefined });
    health.end();
    assert.deepEqual(await health.readiness(), { ready: false, parts: { spire: 'ok', server: 'ending' } });
  });
});

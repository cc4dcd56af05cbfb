import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { Agent, request } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { connect as tcpConnect, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as tlsConnect } from 'node:tls';
import { generateKeyPair, SignJWT } from 'jose';
import { loadConfig, type Config } from '../../src/config.ts';
import { HttpClient, readCa } from '../../src/http.ts';
import { sockets as spireSockets, trustDomain } from '../../src/sandbox/names.ts';
import { generateKey } from '../../src/seal/keys.ts';
import { Secret } from '../../src/secret.ts';
import { Authority, type Issued } from '../support/authority.ts';
import { VaultOwner } from '../support/owner.ts';
import { enrolPerson, type Person } from '../support/people.ts';
import { containerOf, Site } from '../support/site.ts';

interface Schema {
  type?: string;
  properties?: Record<string, Schema>;
  items?: Schema;
}
interface Operation {
  security: object[];
  requestBody?: { content: { 'application/json': { schema: Schema } } };
}

describe('attacks on the HPCS server', function () {
  this.timeout(180_000);
  const run = randomBytes(4).toString('hex');
  const resources = new AsyncDisposableStack();
  let site: Site;
  let config: Config;
  let api: HttpClient;
  let ca: string;
  let owner: VaultOwner;
  let anna: Person;
  let routes: [path: string, operation: Operation][];

  before(async function () {
    this.timeout(1_800_000);
    site = resources.use(await Site.open());
    config = await loadConfig(site.configuration);
    ca = (await readCa(config['hpcs-server']['ca-file'])) ?? '';
    api = resources.use(new HttpClient({ url: config['hpcs-server'].url, ca, name: 'HPCS server' }));
    owner = resources.use(await VaultOwner.open(site));
    anna = resources.use(await enrolPerson(site, `anna-${run}`));
    const { body } = await api.json('GET', '/api/openapi.json');
    const { paths } = body as { paths: Record<string, { post?: Operation }> };
    routes = Object.entries(paths).flatMap(([path, { post }]): [string, Operation][] =>
      post === undefined ? [] : [[path, post]],
    );
    assert.ok(routes.length >= 10);
  });

  after(() => resources.disposeAsync());

  afterEach(async () => assert.equal((await api.json('GET', '/readyz')).status, 200, 'the server does not serve any more'));

  const log = async (since: number): Promise<Record<string, unknown>[]> => {
    const container = site.docker.getContainer(containerOf('hpcsServer'));
    const raw = (await container.logs({ stdout: true, stderr: true, since })).toString();
    return [...raw.matchAll(/\{"level".*\}/g)].map(([line]) => JSON.parse(line) as Record<string, unknown>);
  };
  const now = (): number => Math.floor(Date.now() / 1000);
  const inSpire = async (command: string): Promise<string> => {
    const spire = `/opt/spire/bin/spire-server ${command} -socketPath ${spireSockets.admin}`;
    const ran = await site.run(spire, 'root', containerOf('spireServer'));
    assert.equal(ran.code, 0, ran.stderr);
    return ran.stdout;
  };
  /** Roles, policies and clients in the vault, and entries in SPIRE: what a name could have made. */
  const made = async (): Promise<unknown> => [
    await owner.list('auth/jwt/role'),
    await owner.list('sys/policies/acl'),
    await owner.list('kv/metadata/hpcs-server/clients'),
    await owner.list('kv/metadata/hpcs-server/grants'),
    await inSpire('entry count'),
  ];

  const names = ['../x', 'x/../../y', '%2e%2e%2fx', 'a%2fb', 'a\nb', '*', '+', '{{identity.entity.id}}', 'X.TGZ', '', '..', 'a b', 'a\0b', 'é', 'x'.repeat(300)]; // prettier-ignore

  it('names that mean something to somebody are refused at every call and every place, and make nothing', async () => {
    const since = now();
    const clientId = anna.identity.clientId;
    const jwt = await anna.identity.jwt('hpcs-server');
    const hex = 'a'.repeat(64);
    const samples: Record<string, object> = {
      '/api/client/create-workloads': { jwt: jwt.reveal(), secret: 'x', users: ['u'], groups: ['g'], compute_nodes: ['n'] },
      '/api/client/enrol': { token: 'A'.repeat(43) },
      '/api/client/token': { audience: 'vault' },
      '/api/client/grants': { secret: 'x', clients: [clientId], groups: ['g'] },
      '/api/jobs': {
        job: '1',
        ticket: hex,
        artefacts: [{ role: 'data', secret_path: `client_${clientId}/x`, sha512: hex + hex }],
      },
      '/api/jobs/redeem': {
        halves: [hex.slice(32), hex.slice(32)],
        job: '1',
        key: (await generateKey('age')).publicKey,
      },
      '/api/jobs/end': { ticket: hex },
    };
    const before = await made();
    const tries = routes.flatMap(([path, { requestBody }]) => {
      const sample = samples[path] ?? sampleOf({ properties: {}, ...requestBody?.content['application/json'].schema });
      return leavesOf(sample).flatMap((place) => {
        // UNIX names may have capitals, and stand in no name of the vault's.
        const unix = ['users', 'groups', 'compute_nodes'].includes(place[0] ?? '') && path.endsWith('/create-workloads');
        const bad = names.filter((name) => !unix || name !== 'X.TGZ');
        return bad.map((name) => ({ path, place, body: withValue(sample, place, name) }));
      });
    });
    // Below what one client may ask in a minute.
    assert.ok(tries.length > 200 && tries.length < 600, `${tries.length}`);
    await inTurns(tries, 8, async ({ path, place, body }) => {
      const answer = await api.json('POST', path, { body, prove: anna.identity.prove });
      const what = `${path} ${place.join('.')}: ${answer.status} ${JSON.stringify(answer.body)}`;
      // Whom a name stands for may be asked of any name: nobody.
      if (path === '/api/client/resolve' && answer.status === 200)
        assert.deepEqual(Object.values((answer.body as { clients: object }).clients), [null], what);
      else assert.ok([400, 401, 403, 404].includes(answer.status), what);
    });
    for (const name of names) {
      for (const path of ['/api/agents/token?hostname=', '/api/client/', '/api/jobs/', '/']) {
        const { status, body } = await api.json('POST', path + encodeURIComponent(name));
        assert.ok([400, 401, 403, 404].includes(status), `${path}${name}: ${status} ${JSON.stringify(body)}`);
      }
    }
    assert.deepEqual(await made(), before);
    const refusals = (await log(since)).filter((line) => line['audit'] === 'refused');
    assert.ok(refusals.length >= tries.length * 0.9, `${refusals.length} of ${tries.length} refusals are in the log`);
  });

  it('tokens that are forged, expired, unsigned, of another issuer or for another audience are refused at every call', async () => {
    const since = now();
    const real = (await anna.identity.jwt('hpcs-server')).reveal();
    const [header = '', payload = '', signature = ''] = real.split('.');
    const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>;
    const head = JSON.parse(Buffer.from(header, 'base64url').toString()) as { kid: string; alg: string };
    const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    const mine = await generateKeyPair('ES256');
    const bundle = (await api.json('GET', '/api/trust-bundle')).body as { trust_bundle: string };
    const keyed = `${part({ ...head, alg: 'HS256' })}.${payload}`;
    const short = (await inSpire(`jwt mint -audience hpcs-server -ttl 1s -spiffeID ${anna.identity.spiffeId}`)).trim();
    const node = (await inSpire(`jwt mint -audience hpcs-server -spiffeID spiffe://${trustDomain}/h/nid000001`)).trim();
    const agent = (await inSpire(`jwt mint -audience hpcs-server -spiffeID spiffe://${trustDomain}/c/${anna.identity.clientId}`)).trim(); // prettier-ignore
    // Clocks may differ by five seconds.
    await sleep(6500);
    const forged: [string, string, number][] = [
      ['another signature', `${header}.${payload}.${randomBytes(64).toString('base64url')}`, 401],
      ['no signature', `${header}.${payload}.`, 401],
      ['alg=none', `${part({ alg: 'none', kid: head.kid })}.${payload}.`, 401],
      ['alg=NONE', `${part({ alg: 'NONE', kid: head.kid })}.${payload}.${signature}`, 401],
      [
        'keyed with what is public',
        `${keyed}.${createHmac('sha256', bundle.trust_bundle).update(keyed).digest('base64url')}`,
        401,
      ],
      ['another key', await new SignJWT(claims).setProtectedHeader({ alg: 'ES256', kid: head.kid }).sign(mine.privateKey), 401],
      ['another issuer', await new SignJWT({ ...claims, iss: 'https://evil.example' }).setProtectedHeader({ alg: 'ES256', kid: 'evil' }).sign(mine.privateKey), 401], // prettier-ignore
      ['altered claims', `${header}.${part({ ...claims, exp: 9_999_999_999 })}.${signature}`, 401],
      ['its end passed', short, 401],
      ['another audience', (await anna.identity.jwt('vault')).reveal(), 401],
      ['a node', node, 403],
      ["a client's agent", agent, 403],
    ];
    const guarded = routes.filter(([, { security }]) => security.some((proof) => 'jwtSvid' in proof));
    assert.ok(guarded.length >= 5);
    const byKey = routes.filter(([, { security }]) => security.length > 0 && !security.some((proof) => 'jwtSvid' in proof));
    assert.deepEqual(byKey.map(([path]) => path), ['/api/client/logout']); // prettier-ignore
    for (const token of [real, ...forged.map(([, one]) => one)]) {
      const headers = { authorization: new Secret(`Bearer ${token}`) };
      assert.equal((await api.json('POST', '/api/client/logout', { body: {}, headers })).status, 401);
    }
    for (const [path] of guarded) {
      for (const [what, token, status] of forged) {
        const headers = { authorization: new Secret(`Bearer ${token}`) };
        const answer = await api.json('POST', path, { body: { audience: 'vault' }, headers });
        assert.equal(answer.status, status, `${path}: ${what}: ${JSON.stringify(answer.body)}`);
      }
      // The same token as it is gets further: to what the call asks for.
      const headers = { authorization: new Secret(`Bearer ${real}`) };
      const { status } = await api.json('POST', path, { body: { audience: 'vault' }, headers });
      assert.ok((path === '/api/client/token' ? [403] : [200, 400]).includes(status), path);
    }
    const lines = await log(since);
    assert.ok(lines.filter((line) => line['audit'] === 'refused').length >= guarded.length * forged.length);
    assert.ok(!JSON.stringify(lines).includes(signature));
  });

  it('certificates that are foreign, expired, or not those of a client are refused; that of a client proves who it is', async () => {
    const { hostname, port } = new URL(config['hpcs-server'].url);
    const mint = async (id: string, ttl = '10m'): Promise<Issued> => {
      const shown = await inSpire(`x509 mint -spiffeID ${id} -ttl ${ttl}`);
      const [cert = ''] = /-----BEGIN CERTIFICATE-----[^]*?-----END CERTIFICATE-----/.exec(shown) ?? [];
      const [key = ''] = /-----BEGIN [A-Z ]*PRIVATE KEY-----[^]*?-----END [A-Z ]*PRIVATE KEY-----/.exec(shown) ?? [];
      return { cert, key };
    };
    const call = async (shown: Issued, agent: Agent | false = false): Promise<[number, string]> => {
      const headers = { 'content-type': 'application/json' };
      const sent = request({ hostname, port, path: '/api/client/token', method: 'POST', ca, agent, headers, ...shown });
      sent.end('{"audience":"vault"}');
      const [answer] = (await once(sent, 'response')) as [IncomingMessage];
      return [answer.statusCode ?? 0, await text(answer)];
    };
    const id = anna.identity.spiffeId;
    const short = await mint(id, '4s');
    const kept = new Agent({ keepAlive: true, maxSockets: 1 });
    assert.equal((await call(short, kept))[0], 200);
    const [status, body] = await call(await mint(id));
    assert.equal(status, 200, body);
    assert.equal((JSON.parse(body) as { spiffeID: string }).spiffeID, id);
    const foreign = new Authority(site.temporary, 'foreign');
    for (const [what, shown, expected] of [
      ['a foreign authority', foreign.issue({ names: `URI:${id}` }), 401],
      ['a node', await mint(`spiffe://${trustDomain}/h/nid000001`), 403],
      ["a client's agent", await mint(`spiffe://${trustDomain}/c/${anna.identity.clientId}`), 403],
      ['the server itself', await mint(`spiffe://${trustDomain}/hpcs-server/workload`), 403],
    ] as const)
      assert.equal((await call(shown))[0], expected, what);
    await sleep(4000);
    // Neither a new connection nor the one that was made in time.
    assert.match((await call(short))[1], /has expired/);
    assert.match((await call(short, kept))[1], /has expired/);
    kept.destroy();
  });

  it('bodies of 100 MB are refused at every call, of whatever length they say they are', async () => {
    const { hostname, port } = new URL(config['hpcs-server'].url);
    const part = Buffer.alloc(64 * 1024, 'x');
    const size = 100 * 1024 * 1024;
    const send = async (path: string, headers: Partial<Record<string, string>>): Promise<{ status: number; sent: number }> => {
      const socket = tlsConnect({ host: hostname, port: Number(port), ca, servername: 'localhost' });
      await once(socket, 'secureConnect');
      let answer = '';
      socket.on('error', () => undefined).on('data', (bytes: Buffer) => (answer += bytes.toString('latin1')));
      const chunked = headers['transfer-encoding'] !== undefined;
      socket.write(`POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n`);
      socket.write(`${Object.entries(headers).map(([name, value]) => `${name}: ${value}`).join('\r\n')}\r\n\r\n`); // prettier-ignore
      let sent = 0;
      while (sent < size && !socket.destroyed) {
        if (chunked) socket.write(`${part.length.toString(16)}\r\n`);
        const more = socket.write(part);
        if (chunked) socket.write('\r\n');
        sent += part.length;
        if (!more && !socket.destroyed) await next(socket);
      }
      socket.destroy();
      return { status: Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1] ?? 0), sent };
    };
    for (const [path, { requestBody }] of routes) {
      if (requestBody === undefined) continue;
      for (const headers of [{ 'content-length': String(size) }, { 'transfer-encoding': 'chunked' }]) {
        const { status, sent } = await send(path, headers);
        // Where the connection was reset in the midst of it, the answer may be lost.
        assert.ok([0, 403, 413].includes(status), `${path}: ${status}`);
        assert.ok(sent < size / 2, `${path} took ${sent} bytes`);
      }
    }
  });

  it('hundreds of slow connections keep nobody from being served, and are ended', async () => {
    const since = now();
    const { hostname, port } = new URL(config['hpcs-server'].url);
    const where = { host: hostname, port: Number(port) };
    const each = 100;
    const many = (open: () => Socket): Socket[] => Array.from({ length: each }, () => open().on('error', () => undefined).resume()); // prettier-ignore
    // Those who say nothing, those who say little of their request's head, and of its body.
    const silent = many(() => tcpConnect(where));
    const quiet = many(() => tlsConnect({ ...where, ca, servername: 'localhost' }));
    const dripping = many(() => tlsConnect({ ...where, ca, servername: 'localhost' }));
    const bodies = many(() => tlsConnect({ ...where, ca, servername: 'localhost' }));
    for (const socket of dripping) socket.write('POST /api/jobs HTTP/1.1\r\nhost: x\r\n');
    for (const socket of bodies)
      socket.write('POST /api/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{');
    const drip = setInterval(() => {
      for (const socket of dripping) if (socket.writable) socket.write('x-more: y\r\n');
      for (const socket of bodies) if (socket.writable) socket.write(' ');
    }, 1000);
    try {
      const gone = Promise.all([...silent, ...quiet, ...dripping].map(async (socket) => socket.closed || once(socket, 'close')));
      let served = 0;
      const ended = new AbortController();
      void gone.then(() => ended.abort());
      while (!ended.signal.aborted) {
        using token = await anna.identity.jwt('vault');
        assert.ok(token.reveal().length > 0);
        served += 1;
        await sleep(500, undefined, { signal: ended.signal }).catch(() => undefined);
      }
      assert.ok(served >= 5, `${served} calls were served`);
      const lines = await log(since);
      assert.ok(lines.filter((line) => line['msg'] === 'connection ended: no request as it should be').length >= each);
    } finally {
      clearInterval(drip);
      for (const socket of [...silent, ...quiet, ...dripping, ...bodies]) socket.destroy();
    }
  });
});

/** Waits until a socket takes more, or is no more. */
function next(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      for (const event of ['drain', 'close', 'error']) socket.off(event, done);
      resolve();
    };
    for (const event of ['drain', 'close', 'error']) socket.on(event, done);
  });
}

/** A value of a schema, as far as its names go: for calls that the table above does not know. */
function sampleOf({ properties, items }: Schema): object {
  if (items !== undefined) return [sampleOf(items)];
  if (properties === undefined) return '' as unknown as object;
  return Object.fromEntries(Object.entries(properties).map(([name, schema]) => [name, sampleOf(schema)]));
}

/** Places of all texts in a value. */
function leavesOf(value: unknown, place: string[] = []): string[][] {
  if (typeof value === 'string') return [place];
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) => leavesOf(inner, [...place, name]));
}

function withValue(sample: object, place: readonly string[], value: string): object {
  const copy = structuredClone(sample);
  let inner = copy as Record<string, unknown>;
  for (const name of place.slice(0, -1)) inner = inner[name] as Record<string, unknown>;
  inner[place.at(-1) ?? ''] = value;
  return copy;
}

async function inTurns<Item>(items: readonly Item[], width: number, task: (item: Item) => Promise<void>): Promise<void> {
  const left = items.values();
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (const item of left) await task(item);
    }),
  );
}

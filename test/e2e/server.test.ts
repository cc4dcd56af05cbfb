import assert from 'node:assert/strict';
import { readdir, readFile, stat } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig, type Config } from '../../src/config.ts';
import { HpcsServer } from '../../src/hpcs.ts';
import { HttpClient, readCa } from '../../src/http.ts';
import { startAgent, type AgentOptions } from '../../src/identity/agent.ts';
import { openIdentity } from '../../src/identity/client-identity.ts';
import type { ClientIdentity } from '../../src/identity/identity.ts';
import { fetchJwtSvids } from '../../src/identity/workload-api.ts';
import { secretName } from '../../src/record.ts';
import { Secret } from '../../src/secret.ts';
import { quote } from '../../src/shell.ts';
import { Vault } from '../../src/vault.ts';
import { refused } from '../support/refused.ts';
import { containerOf, Site } from '../support/site.ts';
import { insideServer } from '../support/spire.ts';
import { tokenPattern, withoutThumbprints } from '../support/tokens.ts';

describe('identities and grants as in the original, on real SPIRE and OpenBao', function () {
  this.timeout(120_000);
  const { signal } = new AbortController();
  let site: Site;
  let config: Config;
  let server: HpcsServer;
  let api: HttpClient;
  let vault: Vault;
  let owner: { administratorToken: string; unsealKey: string };
  let root: HttpClient;
  let alice: ClientIdentity;
  let mallory: ClientIdentity;
  // Test names may repeat over runs of one sandbox; users of this run shall not.
  const user = 'alice';

  const resources = new AsyncDisposableStack();

  before(async function () {
    // The first time, the sandbox's programs are compiled.
    this.timeout(1_800_000);
    site = resources.use(await Site.open({ legacy: true }));
    config = await loadConfig(site.configuration);
    const reach = { url: config['hpcs-server'].url, ca: await readCa(config['hpcs-server']['ca-file']) };
    const bank = { url: config.vault.url, ca: await readCa(config.vault['ca-file']) };
    server = resources.use(new HpcsServer(reach));
    api = resources.use(new HttpClient({ ...reach, name: 'HPCS server' }));
    vault = resources.use(new Vault(bank));
    root = resources.use(new HttpClient({ ...bank, name: 'vault' }));
    owner = JSON.parse(await readFile(join(site.directory, 'openbao.json'), 'utf8')) as typeof owner;
    alice = resources.use(await identity());
    mallory = resources.use(await identity());
  });

  after(() => resources.disposeAsync());

  const until = async (holds: () => Promise<boolean>): Promise<void> => {
    for (let attempt = 0; !(await holds()); attempt += 1) {
      assert.ok(attempt < 100, 'it did not come back');
      await sleep(200);
    }
  };
  const identity = (): Promise<ClientIdentity> => openIdentity(config, { signal, progress: () => undefined, env: {} });
  const asRoot = async (method: 'GET' | 'POST' | 'PUT' | 'DELETE' | 'LIST', path: string, body?: unknown): Promise<unknown> => {
    const answer = await root.json(method, `/v1/${path}`, { body, headers: { 'x-vault-token': owner.administratorToken } });
    return answer.body;
  };
  const grant = async (who: ClientIdentity, change: Partial<Parameters<HpcsServer['createWorkloads']>[0]> = {}) =>
    server.createWorkloads({
      jwt: await who.jwt('hpcs-server'),
      secret: secretName('x'),
      users: [user],
      groups: [],
      computeNodes: ['node'],
      ...change,
    });
  const nodeAgent = async (hostname: string, change: Partial<AgentOptions> = {}) => {
    const { joinToken } = await server.nodeToken(hostname);
    return startAgent({ ...agentOptions(joinToken), trustBundle: await server.trustBundle(), ...change });
  };
  const agentOptions = (joinToken: Secret): AgentOptions => ({
    bin: config['spire-agent'].bin,
    serverAddress: config['spire-server'].address,
    serverPort: config['spire-server'].port,
    trustDomain: config['spire-server']['trust-domain'],
    joinToken,
  });
  const inside = (code: string): Promise<unknown> => insideServer(site, code);
  const entriesOf = (client: string, secret: string): Promise<unknown> =>
    inside(
      `console.log(JSON.stringify((await spire.listEntries({ trustDomain: td, path: '/c/${client}/s/${secret}' })).length))`,
    );

  describe('the whole way', () => {
    it('leads from registration to a secret that only its reader reads', async () => {
      const account = userInfo().username;
      const secret = secretName('data');
      const made = await grant(alice, { secret, users: [account], computeNodes: ['cn-way'] });
      assert.deepEqual(made, {
        spiffeId: `spiffe://${config['spire-server']['trust-domain']}/c/${alice.clientId}/s/${secret}`,
        secretPath: `client_${alice.clientId}/${secret}`,
        role: `client_${alice.clientId}-${secret}`,
      });
      {
        await using session = await vault.login(`client_${alice.clientId}`, await alice.jwt('vault'));
        await session.writeNew(made.secretPath, { key: 'K' });
        await assert.rejects(session.writeNew(made.secretPath, { key: 'L' }), refused('secret-exists'));
        await assert.rejects(session.read(made.secretPath), refused('vault-forbidden'));
        await assert.rejects(session.writeNew(`client_${mallory.clientId}/x`, {}), refused('vault-forbidden'));
        await assert.rejects(session.writeNew('client_000000000/x', {}), refused('vault-forbidden'));
      }
      await using agent = await nodeAgent('cn-way');
      const [svid] = await fetchJwtSvids({ socket: agent.socket, audience: ['vault'], spiffeId: made.spiffeId });
      assert.ok(svid && svid.expires.getTime() - Date.now() <= 300_000);
      await using session = await vault.login(made.role, svid.token);
      assert.deepEqual(await session.read(made.secretPath), { key: 'K' });
      await assert.rejects(session.writeNew(made.secretPath, {}), refused('vault-forbidden'));
      await assert.rejects(session.read(`client_${alice.clientId}/other`), refused('vault-forbidden'));
      // Another node's agent is not given it.
      await using other = await nodeAgent('cn-other');
      await assert.rejects(fetchJwtSvids({ socket: other.socket, audience: ['vault'], timeout: 6000 }), refused('no-identity'));
    });

    it('goes over an agent that runs already', async () => {
      const { clientId, joinToken } = await server.register({ uid: process.getuid?.() });
      await using agent = await startAgent({ ...agentOptions(joinToken), trustBundle: await server.trustBundle() });
      const auto = { ...config, identity: { ...config.identity, client: 'auto' as const } };
      const env = { SPIFFE_ENDPOINT_SOCKET: agent.socket };
      const interrupted = new AbortController();
      await using adopted = await openIdentity(auto, { signal: interrupted.signal, progress: () => undefined, env });
      assert.equal(adopted.clientId, clientId);
      const { secretPath } = await grant(adopted);
      assert.equal(secretPath.split('/')[0], `client_${clientId}`);
      // What was made is taken back then.
      interrupted.abort();
      await server.destroySecret(secretPath, adopted.prove);
    });

    it('hands out the trust bundle', async () => {
      const file = await readFile(join(site.directory, 'trust-bundle.pem'), 'utf8');
      assert.equal((await server.trustBundle())?.trim(), file.trim());
    });

    it('ends the tokens of the vault with their sessions', async () => {
      const token = await (async () => {
        await using session = await vault.login(`client_${alice.clientId}`, await alice.jwt('vault'));
        const answer = await session.request('POST', '/v1/auth/token/lookup-self');
        // Without the default policy it may not even look at itself.
        assert.equal(answer.status, 403);
        return session;
      })();
      await assert.rejects(token.read('x'), /after its end/);
    });
  });

  describe('tokens', () => {
    const post = (jwt: string, change: object = {}) =>
      api.json('POST', '/api/client/create-workloads', {
        body: { jwt, secret: 'x', users: ['u'], groups: null, compute_nodes: ['n'], ...change },
      });
    const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');

    it('are refused when forged', async () => {
      const real = (await alice.jwt('hpcs-server')).reveal();
      const [header = '', payload = '', signature = ''] = real.split('.');
      const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown>;
      const head = JSON.parse(Buffer.from(header, 'base64url').toString()) as Record<string, unknown>;
      const other = part({ ...claims, sub: mallory.spiffeId });
      for (const forged of [
        `${header}.${other}.${signature}`,
        `${part({ ...head, alg: 'none' })}.${payload}.`,
        `${part({ alg: 'none' })}.${other}.`,
        `${part({ ...head, alg: 'HS256' })}.${payload}.${signature}`,
        `${part({ ...head, kid: 'x' })}.${payload}.${signature}`,
        `${header}.${payload}.`,
        `${header}.${payload}`,
        'x',
      ]) {
        const { status, body } = await post(forged);
        assert.equal(status, 401, JSON.stringify(body));
        assert.equal((body as { success: boolean }).success, false);
      }
    });

    it('are refused for another audience, and after their end', async () => {
      assert.equal((await post((await alice.jwt('vault')).reveal())).status, 401);
      const mint = (ttl: string, id: string) =>
        site.run(
          `/opt/spire/bin/spire-server jwt mint -socketPath /run/spire-admin/api.sock -audience hpcs-server -ttl ${ttl} -spiffeID ${quote(id)}`,
          'root',
          containerOf('spireServer'),
        );
      const short = (await mint('1s', alice.spiffeId)).stdout.trim();
      await sleep(7000);
      const { status, body } = await post(short);
      assert.equal(status, 401);
      assert.match(JSON.stringify(body), /has expired/);
      // The same key signs tokens of others, which are no clients.
      const node = (await mint('60s', `spiffe://${config['spire-server']['trust-domain']}/h/node`)).stdout.trim();
      assert.equal((await post(node)).status, 403);
    });

    it('decide whose grant it is, whatever headers say', async () => {
      const secret = secretName('mine');
      await grant(alice, { secret });
      const { status, body } = await api.json('POST', '/api/client/create-workloads', {
        body: {
          jwt: (await mallory.jwt('hpcs-server')).reveal(),
          secret,
          users: ['mallory'],
          compute_nodes: ['node'],
          client_id: alice.clientId,
        },
        headers: { 'remote-addr': '127.0.0.1', 'x-forwarded-for': '127.0.0.1' },
      });
      assert.equal(status, 200);
      assert.equal((body as { clientID: string }).clientID, mallory.clientId);
      assert.equal(await entriesOf(alice.clientId, secret), 1);
    });

    it('do not open the roles of others in the vault', async () => {
      await assert.rejects(vault.login(`client_${alice.clientId}`, await mallory.jwt('vault')), refused('vault-subject'));
      await assert.rejects(vault.login(`client_${alice.clientId}`, await alice.jwt('hpcs-server')), refused('vault-audience'));
      await assert.rejects(vault.login('client_000000000', await alice.jwt('vault')), refused('vault-role-unknown'));
      await assert.rejects(vault.login('hpcs-server', await alice.jwt('vault')), refused('vault-subject'));
    });
  });

  describe('grants', () => {
    for (const secret of ['../x', 'x/../../y', '*', 'x*', 'a\nb', 'X.TGZ', 'x.', '..', '', 'a b', '+']) {
      it(`are not made for a secret named ${JSON.stringify(secret)}`, async () => {
        await assert.rejects(grant(alice, { secret }), refused('hpcs-bad-request', /secret: expected a name/));
      });
    }

    it('are not made for names that are none', async () => {
      for (const name of ['../x', '*', 'a\nb', 'u:v', '']) {
        await assert.rejects(grant(alice, { users: [name] }), refused('hpcs-bad-request', /users: expected/));
        await assert.rejects(grant(alice, { groups: [name] }), refused('hpcs-bad-request', /groups: expected/));
        await assert.rejects(grant(alice, { computeNodes: [name] }), refused('hpcs-bad-request', /compute_nodes: expected/));
      }
    });

    it('may be asked for again, at once and at the same time', async () => {
      const change = { secret: secretName('again'), users: ['a', 'b'], groups: ['g'], computeNodes: ['n1', 'n2'] };
      const made = await Promise.all([grant(alice, change), grant(alice, change), grant(alice, change)]);
      assert.deepEqual(made[1], made[0]);
      assert.deepEqual(
        await grant(alice, { ...change, users: ['b', 'a', 'a'], computeNodes: ['n2', 'n1'] }).then(({ role }) => role),
        made[0].role,
      );
      assert.equal(await entriesOf(alice.clientId, change.secret), 6);
    });

    it('are not changed by asking for others', async () => {
      const secret = secretName('fixed');
      await grant(alice, { secret, users: ['a', 'b'] });
      for (const change of [
        { users: ['a', 'c'] },
        { users: ['a'] },
        { users: ['a', 'b', 'c'] },
        { computeNodes: ['node', 'more'] },
      ])
        await assert.rejects(grant(alice, { secret, users: ['a', 'b'], ...change }), refused('hpcs-conflict', /other readers/));
      assert.equal(await entriesOf(alice.clientId, secret), 2);
    });

    it('are one of two when two differ at the same time', async () => {
      const secret = secretName('race');
      const results = await Promise.allSettled([grant(alice, { secret, users: ['a'] }), grant(alice, { secret, users: ['b'] })]);
      assert.deepEqual(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
      assert.equal(await entriesOf(alice.clientId, secret), 1);
    });

    it('are completed where one failed on its way', async () => {
      const secret = secretName('half');
      const change = { secret, users: ['a', 'b'] };
      await inside(`
        const spiffeId = { trustDomain: td, path: '/c/${alice.clientId}/s/${secret}' };
        const parentId = { trustDomain: td, path: '/h/node' };
        console.log(JSON.stringify(await spire.createEntries([{ spiffeId, parentId, selectors: [{ type: 'unix', value: 'user:a' }], jwtSvidTtl: 300 }])))`);
      await assert.rejects(grant(alice, { secret, users: ['b'] }), refused('hpcs-conflict'));
      await grant(alice, change);
      assert.equal(await entriesOf(alice.clientId, secret), 2);
    });

    it('may be large: told of as they grow, and repeated without harm', async () => {
      const secret = secretName('large');
      const computeNodes = Array.from({ length: 600 }, (_, index) => `nid${index}`);
      const seen: [number, number][] = [];
      const onProgress = (done: number, total: number): void => void seen.push([done, total]);
      const change = { secret, users: ['a', 'b'], groups: ['g'], computeNodes, onProgress };
      const made = await grant(alice, change);
      assert.deepEqual(seen.splice(0), [[0, 1800], [1000, 1800], [1800, 1800]]); // prettier-ignore
      assert.deepEqual(await grant(alice, change), made);
      assert.deepEqual(seen.splice(0), [[1800, 1800]]);
      assert.equal(await entriesOf(alice.clientId, secret), 1800);
      // Refusals come as an answer with a status even so.
      await assert.rejects(grant(alice, { ...change, users: ['c'] }), refused('hpcs-conflict', /other readers/));
    });

    it('take SPIRE a call for each thousand of readers, and for what is missing alone when they are repeated', async () => {
      // The server's own modules, on its SPIRE, with its calls counted; its vault has no part in this.
      const found = await inside(`
        import { Grants } from '/app/src/server/grants.ts';
        import { GrpcClient } from '/app/src/identity/grpc.ts';
        const calls = {};
        const { call } = GrpcClient.prototype;
        GrpcClient.prototype.call = function (method, ...rest) { calls[method] = (calls[method] ?? 0) + 1; return call.call(this, method, ...rest); };
        const take = () => { const taken = { ...calls }; for (const name of Object.keys(calls)) delete calls[name]; return taken; };
        let complete = false;
        const vault = { hasRole: async () => complete, writeReader: async () => { complete = true; } };
        const grants = new Grants(spire, vault, { trustDomain: td, selectors: [], joinTokenTtl: 300, jwtSvidTtl: 300 });
        const body = { secret: 'calls-' + Date.now(), users: ['a', 'b', 'c'], groups: [], compute_nodes: Array.from({ length: 1000 }, (_, i) => 'n' + i) };
        const result = [];
        await grants.grant('0123456af', body);
        result.push(take());
        await grants.grant('0123456af', body);
        result.push(take());
        const entries = await spire.listEntries({ trustDomain: td, path: '/c/0123456af/s/' + body.secret });
        await spire.deleteEntries(entries.slice(0, 500).map(({ id }) => id));
        complete = false;
        take();
        await grants.grant('0123456af', body);
        result.push(take());
        const all = await spire.listEntries({ trustDomain: td, path: '/c/0123456af/s/' + body.secret });
        result.push(all.length);
        await spire.deleteEntries(all.map(({ id }) => id));
        console.log(JSON.stringify(result));`);
      assert.deepEqual(found, [
        { ListEntries: 1, BatchCreateEntry: 3 },
        { ListEntries: 4 },
        { ListEntries: 4, BatchCreateEntry: 1 },
        3000,
      ]);
    });
  });

  describe('SPIRE', () => {
    it('keeps none of several entries when one is refused', async () => {
      const found = await inside(`
        const spiffeId = { trustDomain: td, path: '/test/' + Date.now() };
        const entry = (node, selectors) => ({ spiffeId, parentId: { trustDomain: td, path: '/h/' + node }, selectors, jwtSvidTtl: 300 });
        const good = [{ type: 'unix', value: 'uid:1' }];
        const error = await spire.createEntries([entry('n1', good), entry('n2', []), entry('n3', good)]).catch((error) => error);
        console.log(JSON.stringify([error.code, error.message, (await spire.listEntries(spiffeId)).length]))`);
      const [code, message, left] = found as [string, string, number];
      assert.equal(code, 'spire-refused');
      assert.match(message, /selector/);
      assert.equal(left, 0);
    });

    it('counts an entry that exists as made, and what is gone as deleted', async () => {
      const found = await inside(`
        const spiffeId = { trustDomain: td, path: '/test/' + Date.now() };
        const entry = { spiffeId, parentId: { trustDomain: td, path: '/h/n1' }, selectors: [{ type: 'unix', value: 'uid:1' }], jwtSvidTtl: 300 };
        const [first, second] = [await spire.createEntries([entry]), await spire.createEntries([entry])];
        await spire.deleteEntries([...first, ...first]);
        await spire.deleteEntries(first);
        console.log(JSON.stringify([first.length, second.length, (await spire.listEntries(spiffeId)).length]))`);
      assert.deepEqual(found, [1, 0, 0]);
    });
  });

  describe('the vault', () => {
    const sealed = async (task: () => Promise<void>): Promise<void> => {
      await asRoot('PUT', 'sys/seal');
      try {
        await task();
      } finally {
        await asRoot('PUT', 'sys/unseal', { key: owner.unsealKey });
        await until(async () => (await root.json('GET', '/v1/sys/health')).status === 200);
      }
    };

    it('may be sealed: calls say so, leave nothing, and work again afterwards', async () => {
      const secret = secretName('sealed');
      await sealed(async () => {
        await assert.rejects(grant(alice, { secret }), refused('hpcs-unavailable', /sealed/));
        await assert.rejects(server.register({ uid: 1000 }), refused('hpcs-unavailable', /sealed/));
        await assert.rejects(vault.login(`client_${alice.clientId}`, await alice.jwt('vault')), refused('vault-sealed'));
        const health = await api.json('GET', '/readyz');
        assert.equal(health.status, 503);
        assert.deepEqual(health.body, { success: false, spire: 'ok', vault: 'vault-sealed' });
        assert.equal(await entriesOf(alice.clientId, secret), 0);
      });
      await grant(alice, { secret });
      await until(async () => (await api.json('GET', '/readyz')).status === 200);
    });

    it('may forget the token of the HPCS server, which logs in again', async () => {
      await asRoot('PUT', 'sys/leases/revoke-prefix/auth/jwt/login');
      await grant(alice);
    });
  });

  describe('nodes and agents', () => {
    it('are named by host names alone', async () => {
      for (const name of ['../c/x', '*', 'a\nb', ''])
        await assert.rejects(server.nodeToken(name), refused('hpcs-bad-request', /hostname/));
    });

    it('keep to themselves, and leave nothing', async () => {
      let directory: string;
      {
        await using agent = await nodeAgent('cn-private', { parent: site.temporary });
        directory = dirname(agent.socket.replace('unix://', ''));
        assert.equal((await stat(directory)).mode & 0o777, 0o700);
        assert.ok(!(await readdir(directory)).includes('token'), 'the join token is still there');
        const name = directory.split('/').at(-1) ?? '';
        const lines = await commandLines();
        assert.ok(
          lines.some((line) => line.includes(name)),
          'the agent does not run',
        );
      }
      assert.deepEqual(
        await readdir(dirname(directory)).then((names) => names.filter((name) => name.startsWith('hpcs-agent-'))),
        [],
      );
      const lines = await commandLines();
      assert.ok(!lines.some((line) => line.includes(directory)), 'the agent still runs');
    });

    const failing: [what: string, change: Partial<AgentOptions>, code: string][] = [
      ['a token that does not exist', { joinToken: new Secret('00000000-0000-0000-0000-000000000000') }, 'join-token-refused'],
      ['another trust domain', { trustDomain: 'other.example' }, 'trust-domain-wrong'],
      ['no trust bundle', { trustBundle: undefined }, 'trust-bundle-missing'],
      ['a trust bundle that is none', { trustBundle: 'x' }, 'trust-bundle-missing'],
      ['no program', { bin: 'no-such-spire-agent' }, 'agent-not-started'],
      ['another program', { bin: '/bin/false' }, 'agent-died'],
      ['no server', { serverPort: 1, timeout: 2500 }, 'agent-not-ready'],
      ['no directory', { parent: '/nonexistent' }, 'no-temporary-directory'],
    ];
    for (const [what, change, code] of failing) {
      it(`end with a named error when there is ${what}`, async () => {
        await assert.rejects(nodeAgent('cn-failing', { parent: site.temporary, ...change }), refused(code));
        assert.deepEqual(
          (await readdir(site.temporary)).filter((name) => name.startsWith('hpcs-agent-')),
          [],
        );
      });
    }

    it('refuse a server that is not the one of the trust bundle', async () => {
      const trustBundle = await readFile(join(site.directory, 'ca.pem'), 'utf8');
      await assert.rejects(nodeAgent('cn-failing', { trustBundle }), refused('spire-untrusted'));
    });

    it('are given up when interrupted', async () => {
      const reason = new Error('interrupted');
      const abort = new AbortController();
      setTimeout(() => abort.abort(reason), 300);
      await assert.rejects(nodeAgent('cn-failing', { serverPort: 1, parent: site.temporary, signal: abort.signal }), reason);
      assert.deepEqual(
        (await readdir(site.temporary)).filter((name) => name.startsWith('hpcs-agent-')),
        [],
      );
    });
  });

  it('writes no token into its log', async () => {
    const jwt = (await alice.jwt('hpcs-server')).reveal();
    await grant(alice, { jwt: new Secret(jwt) });
    const { joinToken } = await server.nodeToken('cn-log');
    await assert.rejects(grant(alice, { jwt: new Secret(`${jwt}x`) }));
    const log = (
      await site.docker.getContainer(containerOf('legacyServer')).logs({ stdout: true, stderr: true, tail: 2000 })
    ).toString();
    assert.match(log, /grant made/);
    assert.match(log, /node token made/);
    for (const secret of [jwt, jwt.split('.')[2] ?? '?', joinToken.reveal()]) assert.ok(!log.includes(secret));
    assert.doesNotMatch(withoutThumbprints(log), tokenPattern);
  });
});

async function commandLines(): Promise<string[]> {
  const processes = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  return Promise.all(processes.map((id) => readFile(`/proc/${id}/cmdline`, 'utf8').catch(() => '')));
}

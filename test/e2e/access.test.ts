import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig, type Config } from '../../src/config.ts';
import type { HpcsError } from '../../src/errors.ts';
import type { HpcsServer } from '../../src/hpcs.ts';
import { HttpClient, readCa } from '../../src/http.ts';
import { openIdentity } from '../../src/identity/client-identity.ts';
import { generateProofKey, keyProver } from '../../src/identity/proof.ts';
import { renderInfoRecord } from '../../src/record.ts';
import { Secret } from '../../src/secret.ts';
import { Vault } from '../../src/vault.ts';
import { VaultOwner } from '../support/owner.ts';
import { enrolmentToken, enrolPerson, serverOf, type Person } from '../support/people.ts';
import { refused } from '../support/refused.ts';
import { containerOf, Site, type Ran } from '../support/site.ts';
import { insideServer } from '../support/spire.ts';
import { newKey, someRecord, Submissions, type Registered } from '../support/submissions.ts';

const secretOf = (path: string): string => path.split('/')[1] ?? '';

describe('what was granted, under conditions, and taken back', function () {
  this.timeout(120_000);
  const run = randomBytes(4).toString('hex');
  const resources = new AsyncDisposableStack();
  let site: Site;
  let config: Config;
  let server: HpcsServer;
  /** Another server on the same vault. */
  let twin: HpcsServer;
  let api: HttpClient;
  let vault: Vault;
  let owner: VaultOwner;
  let here: Submissions;
  let there: Submissions;
  let anna: Person;
  let bert: Person;
  let eve: Person;

  before(async function () {
    this.timeout(1_800_000);
    site = resources.use(await Site.open());
    config = await loadConfig(site.configuration);
    server = resources.use(await serverOf(config));
    twin = resources.use(await serverOf(await loadConfig(site.legacyConfiguration)));
    const ca = await readCa(config['hpcs-server']['ca-file']);
    api = resources.use(new HttpClient({ url: config['hpcs-server'].url, ca, name: 'HPCS server' }));
    vault = resources.use(new Vault({ url: config.vault.url, ca, namespace: config.vault.namespace }));
    owner = resources.use(await VaultOwner.open(site));
    here = new Submissions(server, vault);
    there = new Submissions(twin, vault);
    [anna, bert, eve] = await Promise.all([
      enrolPerson(site, `anna-${run}`),
      enrolPerson(site, `bert-${run}`, `--groups team-${run}`),
      enrolPerson(site, `eve-${run}`),
    ]);
    for (const person of [anna, bert, eve]) resources.use(person);
  });

  after(() => resources.disposeAsync());

  const toBert = (): { clients: string[] } => ({ clients: [bert.identity.clientId] });
  const stored = async (path: string): Promise<Record<string, unknown>> =>
    ((await owner.ask('GET', `kv/data/hpcs-server/${path}`)).body as { data: { data: Record<string, unknown> } }).data.data;
  const grantsPath = (path: string): string => `grants/${path.replace('client_', '')}`;
  type Stored = { id: string; used: string[] } & Record<string, unknown>;
  /** Alters a grant where the server keeps it, as time alone or a server's death would. */
  const alter = async (path: string, change: Record<string, unknown>): Promise<void> => {
    const record = await stored(grantsPath(path));
    const grants = (record['grants'] as Stored[]).map((grant) => ({ ...grant, ...change }));
    await owner.ask('POST', `kv/data/hpcs-server/${grantsPath(path)}`, { data: { ...record, grants } });
  };
  const administer = (words: string, part: 'hpcsServer' | 'legacyServer' = 'hpcsServer'): Promise<Ran> =>
    site.run(`node /app/bin/dev.js server ${words.replace(' ', ' --config /etc/hpcs/hpcs-server.conf ')}`, '', containerOf(part));
  const used = async (path: string): Promise<number | undefined> =>
    (await server.listAccess(path, anna.identity.prove))[0]?.grants[0]?.used;
  const redeemed = async (job: Registered): Promise<Uint8Array> => here.redeem(job, await newKey());

  describe('a grant', () => {
    it('for one image is for no other: not at the submission, and not where the vault has another than was said', async () => {
      const digest = randomBytes(64).toString('hex');
      const other = randomBytes(64).toString('hex');
      const data = await here.store(anna, someRecord(), { ...toBert(), image: digest });
      const image = await here.store(anna, someRecord({ kind: 'image', sha512: digest }), toBert());
      const wrong = await here.store(anna, someRecord({ kind: 'image', sha512: other }), toBert());
      const { sha512: _, ...undigested } = someRecord({ kind: 'image' });
      const bare = await here.store(bert, undigested);
      const denied = refused('hpcs-forbidden', /is for jobs with another image/);
      await assert.rejects(here.register(bert, { data, image: wrong }, { imageDigest: other }), denied);
      await assert.rejects(here.register(bert, { data, image }), denied);
      await assert.rejects(here.register(bert, { data }), denied);
      for (const liar of [wrong, bare]) {
        const job = await here.register(bert, { data, image: liar }, { imageDigest: digest });
        await assert.rejects(redeemed(job), refused('record-mismatch', /the image is not the one/));
      }
      await redeemed(await here.register(bert, { data, image }, { imageDigest: digest }));
      // Whose data it is, may do with it what he likes.
      await redeemed(await here.register(anna, { data, image: wrong }, { imageDigest: other }));
    });

    it('ends by the clock: for new jobs, and for those that wait', async () => {
      const data = await here.store(anna, someRecord(), { ...toBert(), until: new Date(Date.now() + 3_600_000).toISOString() });
      const waiting = await here.register(bert, { data });
      await redeemed(await here.register(bert, { data }));
      await alter(data, { until: '2026-01-01T00:00:00Z' });
      const ended = refused('hpcs-forbidden', /ended at 2026-01-01T00:00:00Z/);
      await assert.rejects(redeemed(waiting), ended);
      await assert.rejects(here.register(bert, { data }), ended);
      await assert.rejects(
        server.addGrant(data, { ...toBert(), groups: [], until: '2026-01-01T00:00:00Z' }, anna.identity.prove),
        refused('hpcs-bad-request', /a time to come/),
      );
    });

    it('for so many jobs is for no more; a job that never came for its keys is given back, one that did is not', async () => {
      const data = await here.store(anna, someRecord(), { ...toBert(), jobs: 2 });
      const one = await here.register(bert, { data });
      const two = await here.register(bert, { data });
      const enough = refused('hpcs-forbidden', /was for 2 jobs, which there are/);
      await assert.rejects(here.register(bert, { data }), enough);
      // What was refused is not counted, nor does it stay.
      assert.equal(await used(data), 2);
      const key = await newKey();
      await here.redeem(one, key);
      await here.redeem(one, key);
      await server.endJob(one.hash, bert.identity.prove);
      await assert.rejects(here.register(bert, { data }), enough);
      // Nor does its ticket stand for two jobs.
      await assert.rejects(server.registerJob(one.registration, bert.identity.prove), enough);
      assert.deepEqual(await server.endJob(two.hash, bert.identity.prove), { stolen: false, redeemed: false });
      assert.equal(await used(data), 1);
      await redeemed(await here.register(bert, { data }));
      await assert.rejects(here.register(bert, { data }), enough);
    });

    it('for one job is for one of many that come at the same time, at two servers', async () => {
      const data = await here.store(anna, someRecord(), { ...toBert(), jobs: 1 });
      const results = await Promise.allSettled([here, there, here, there].map((at) => at.register(bert, { data })));
      const jobs = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
      assert.equal(jobs.length, 1, JSON.stringify(results));
      assert.equal(await used(data), 1);
      await redeemed(jobs[0] as Registered);
    });

    it('counts a job that a dying server did not count when it comes for its keys, or refuses it', async () => {
      const data = await here.store(anna, someRecord(), { ...toBert(), jobs: 1 });
      const uncounted = await here.register(bert, { data });
      await alter(data, { used: [] });
      const counted = await here.register(bert, { data });
      await assert.rejects(redeemed(uncounted), refused('hpcs-forbidden', /was for one job/));
      await redeemed(counted);
      assert.equal(await used(data), 1);
    });

    it('is added to others by its owner, and lets in where any of them does', async () => {
      const data = await here.store(anna, someRecord(), { ...toBert(), image: 'a'.repeat(128) });
      await assert.rejects(here.register(bert, { data }), refused('hpcs-forbidden', /another image/));
      const wanted = { clients: [], groups: [`team-${run}`], jobs: 1 };
      const { grant } = await server.addGrant(data, wanted, anna.identity.prove);
      assert.equal((await server.addGrant(data, wanted, anna.identity.prove)).grant, grant);
      await redeemed(await here.register(bert, { data }));
      const [found] = await server.listAccess(data, anna.identity.prove);
      assert.deepEqual(
        found?.grants.map(({ clients, groups, used }) => [clients.map(({ name }) => name), groups, used]),
        [
          [[`bert-${run}`], [], 0],
          [[], [`team-${run}`], 1],
        ],
      );
    });
  });

  describe('what is taken back', () => {
    it('is lost to jobs that wait, whether client, group or grant is named; and who still may is told', async () => {
      const data = await here.store(anna, someRecord(), toBert());
      const { grant } = await server.addGrant(data, { clients: [], groups: [`team-${run}`] }, anna.identity.prove);
      const waiting = await here.register(bert, { data });
      const revoke = (what: object) =>
        server.revokeAccess({ secretPath: data, grants: [], clients: [], groups: [], all: false, ...what }, anna.identity.prove);
      const name = `bert-${run}`;
      assert.deepEqual(await revoke({ clients: [name] }), { revoked: 1, readers: 0, still: [name] });
      assert.deepEqual(await revoke({ clients: [name] }), { revoked: 0, readers: 0, still: [name] });
      await redeemed(await here.register(bert, { data }));
      assert.deepEqual(await revoke({ grants: [grant] }), { revoked: 1, readers: 0, still: [] });
      await assert.rejects(redeemed(waiting), refused('hpcs-forbidden', /not granted/));
      await assert.rejects(here.register(bert, { data }), refused('hpcs-forbidden', /not granted/));
      await server.addGrant(data, { ...toBert(), groups: [] }, anna.identity.prove);
      const again = await here.register(bert, { data });
      assert.equal((await revoke({ all: true })).revoked, 1);
      await assert.rejects(redeemed(again), refused('hpcs-forbidden', /not granted/));
    });

    it("is its owner's: nobody else shows, grants, takes back or destroys it", async () => {
      const data = await here.store(anna, someRecord(), toBert());
      const { prove } = eve.identity;
      const notHis = refused('hpcs-forbidden', /is not that of client/);
      await assert.rejects(server.listAccess(data, prove), notHis);
      await assert.rejects(server.addGrant(data, { clients: [eve.identity.clientId], groups: [] }, prove), notHis);
      const everything = { secretPath: data, grants: [], clients: [], groups: [], all: true };
      await assert.rejects(server.revokeAccess(everything, prove), notHis);
      await assert.rejects(server.destroySecret(data, prove), notHis);
      for (const path of ['hpcs-server/clients', `client_${anna.identity.clientId}/../${data}`, '*', `${data}/x`])
        await assert.rejects(server.destroySecret(path, prove), refused('hpcs-bad-request', /expected client_<id>/));
      // Nor does the vault let him.
      await using session = await vault.login(`client_${eve.identity.clientId}`, await eve.identity.jwt('vault'));
      for (const [method, path] of [
        ['DELETE', `kv/metadata/${data}`],
        ['POST', `kv/delete/${data}`],
        ['POST', `kv/destroy/${data}`],
        ['POST', `kv/undelete/${data}`],
        ['DELETE', `kv/metadata/hpcs-server/${grantsPath(data)}`],
      ] as const)
        assert.equal(
          (await session.request(method, `/v1/${path}`, method === 'POST' ? { versions: [1] } : undefined)).status,
          403,
        );
      await redeemed(await here.register(bert, { data }));
    });

    it('is destroyed with all versions: neither undelete nor an old version nor a waiting job brings it back', async () => {
      const data = await here.store(anna, someRecord(), toBert());
      const waiting = [await here.register(bert, { data }), await here.register(anna, { data })];
      await using session = await vault.login(`client_${anna.identity.clientId}`, await anna.identity.jwt('vault'));
      await session.request('POST', `/v1/kv/data/${data}`, { data: { key: 'second version' } });
      // What a deletion leaves, an owner of the vault brings back: the test would see it.
      await owner.ask('DELETE', `kv/data/${data}`);
      assert.equal((await owner.ask('GET', `kv/data/${data}?version=1`)).status, 200);
      await server.destroySecret(data, anna.identity.prove);
      await server.destroySecret(data, anna.identity.prove);
      await owner.ask('POST', `kv/undelete/${data}`, { versions: [1, 2] });
      for (const version of ['', '?version=1', '?version=2'])
        assert.equal((await owner.ask('GET', `kv/data/${data}${version}`)).status, 404, version);
      assert.equal((await owner.ask('GET', `kv/metadata/${data}`)).status, 404);
      assert.equal((await owner.ask('GET', `kv/data/hpcs-server/${grantsPath(data)}`)).status, 404);
      const [berts, annas] = waiting;
      await assert.rejects(redeemed(berts as Registered), refused('hpcs-forbidden', /not granted/));
      await assert.rejects(redeemed(annas as Registered), refused('hpcs-not-found', /holds no secret/));
      await assert.rejects(server.listAccess(data, anna.identity.prove), refused('hpcs-not-found'));
    });

    it('is refused to tokens of readers that were given before, by the vault and by SPIRE', async () => {
      const data = await here.store(anna, someRecord({ key: 'K' }));
      const { trustDomain, clientId } = { trustDomain: config['spire-server']['trust-domain'], clientId: anna.identity.clientId };
      const { role } = await server.createWorkloads({
        jwt: await anna.identity.jwt('hpcs-server'),
        secret: secretOf(data),
        users: ['alice'],
        groups: [],
        computeNodes: ['cn1', 'cn2'],
      });
      const id = `{ trustDomain: td, path: '/c/${clientId}/s/${secretOf(data)}' }`;
      const minted = await insideServer(site, `using token = await spire.mintJwtSvid(${id}, ['vault'], 300); console.log(JSON.stringify(token.reveal()))`); // prettier-ignore
      const jwt = (): Secret => new Secret(String(minted));
      await using session = await vault.login(role, jwt());
      assert.equal(((await session.read(data)) as { key: string }).key, 'K');
      const [shown] = await server.listAccess(data, anna.identity.prove);
      assert.deepEqual(
        shown?.readers.toSorted((a, b) => a.node.localeCompare(b.node)),
        [
          { node: 'cn1', selector: 'unix:user:alice' },
          { node: 'cn2', selector: 'unix:user:alice' },
        ],
      );
      const everything = { secretPath: data, grants: [], clients: [], groups: [], all: true };
      assert.deepEqual(await server.revokeAccess(everything, anna.identity.prove), { revoked: 0, readers: 2, still: [] });
      await assert.rejects(session.read(data), refused('vault-forbidden'));
      await assert.rejects(vault.login(role, jwt()), refused('vault-role-unknown'));
      assert.equal(await insideServer(site, `console.log((await spire.listEntries(${id})).length)`), 0);
      const lookup = await owner.ask('LIST', 'identity/entity/id');
      assert.ok(!JSON.stringify(lookup.body).includes(`spiffe://${trustDomain}/c/${clientId}/s/`));
      // The key itself is there still, for its owner's jobs.
      await redeemed(await here.register(anna, { data }));
    });
  });

  describe('a removed client', () => {
    it('is refused with all tokens that it got before, by vault, SPIRE and HPCS server, and so are its waiting jobs', async () => {
      const name = `frank-${run}`;
      await using frank = await enrolPerson(site, name);
      await using laptop = await enrolPerson(site, name);
      const invitation = new Secret(await enrolmentToken(site, name));
      const { clientId } = frank.identity;
      const [forVault, forServer] = [await frank.identity.jwt('vault'), await frank.identity.jwt('hpcs-server')];
      const own = await here.store(frank, someRecord());
      const data = await here.store(anna, someRecord(), { clients: [name] });
      const jobs = [await here.register(frank, { data }), await here.register(frank, { data: own })];
      await using session = await vault.login(`client_${clientId}`, await frank.identity.jwt('vault'));
      const write = async (): Promise<number> =>
        (await session.request('POST', `/v1/kv/data/client_${clientId}/y-${randomBytes(4).toString('hex')}`, { data: {} }))
          .status;
      assert.equal(await write(), 200);
      // Whatever a client calls what is its own.
      for (const path of [
        '!/x',
        'a b/c',
        'per%25cent',
        'per%252fcent',
        '%C3%BC/%C3%A9',
        'what%3Fis%23this',
        'd/'.repeat(60) + 'e',
        '{{identity}}',
      ])
        assert.equal((await session.request('POST', `/v1/kv/data/client_${clientId}/${path}`, { data: {} })).status, 200, path);
      const entry = (spiffe: string): string =>
        `console.log((await spire.listEntries({ trustDomain: td, path: '/c/${clientId}${spiffe}' })).length)`;
      // As SPIRE would know him, were he a client with an agent.
      await insideServer(
        site,
        `await spire.createJoinToken({ trustDomain: td, path: '/c/${clientId}' }, 60);
await spire.createEntries([{ spiffeId: { trustDomain: td, path: '/c/${clientId}/workload' }, parentId: { trustDomain: td, path: '/c/${clientId}' }, selectors: [{ type: 'unix', value: 'uid:7' }], jwtSvidTtl: 60 }]);
console.log('1')`,
      );
      assert.equal(await insideServer(site, entry('/workload')), 1);
      assert.match(JSON.stringify((await owner.ask('LIST', 'identity/entity/id')).body), new RegExp(`/c/${clientId}/workload`));

      const unasked = await administer(`remove ${name}`);
      assert.equal(unasked.code, 2, unasked.stderr);
      assert.match(unasked.stderr, /nobody was removed/);
      const removed = await administer(`remove ${name} --yes`);
      assert.equal(removed.code, 0, removed.stderr);

      assert.equal(await write(), 403);
      await assert.rejects(vault.login(`client_${clientId}`, forVault), refused('vault-role-unknown'));
      for (const person of [frank, laptop])
        await assert.rejects(person.identity.jwt('vault'), refused('hpcs-unauthenticated', /not enrolled here, or no longer/));
      const bearer = { authorization: `Bearer ${forServer.reveal()}` };
      const shown = await api.json('POST', '/api/client/token', { body: { audience: 'vault' }, headers: bearer });
      assert.equal(shown.status, 401);
      assert.match(JSON.stringify(shown.body), /was removed/);
      await assert.rejects(
        server.createWorkloads({ jwt: forServer, secret: 'x', users: ['u'], groups: [], computeNodes: ['n'] }),
        refused('hpcs-unauthenticated', /was removed/),
      );
      for (const job of jobs) await assert.rejects(redeemed(job), refused('hpcs-forbidden', /was removed/));
      const key = keyProver(await generateProofKey());
      await assert.rejects(server.enrol(invitation, key), refused('hpcs-forbidden', /not known/));
      assert.equal(await insideServer(site, entry('/workload')), 0);
      assert.equal((await owner.ask('GET', `auth/jwt/role/client_${clientId}`)).status, 404);
      assert.equal((await owner.ask('GET', `sys/policies/acl/client_${clientId}`)).status, 404);
      assert.ok(!JSON.stringify((await owner.ask('LIST', 'identity/entity/id')).body).includes(clientId));

      // Another, of the same name, is not him.
      await using again = await enrolPerson(site, name);
      assert.notEqual(again.identity.clientId, clientId);
      await assert.rejects(here.register(again, { data }), refused('hpcs-forbidden', /not granted/));
      const { stdout } = await administer('clients --json');
      const known = (JSON.parse(stdout) as { id: string; name: string; removed?: string; keys: string[] }[]).filter(
        (client) => client.name === name,
      );
      assert.deepEqual(
        known.map(({ id, removed, keys }) => [id, removed !== undefined, keys.length]),
        [
          [clientId, true, 0],
          [again.identity.clientId, false, 1],
        ],
      );
      // What is his stays until it is destroyed, which can be asked for later, by his id.
      assert.equal((await owner.ask('GET', `kv/data/${own}`)).status, 200);
      assert.equal((await administer(`remove ${clientId} --destroy-artefacts --yes`)).code, 0);
      assert.deepEqual(await owner.list(`kv/metadata/client_${clientId}`), []);
    });

    it('that SPIRE alone knows is refused by its own agent, too', async () => {
      const legacy = await loadConfig(site.legacyConfiguration);
      const { signal } = new AbortController();
      await using client = await openIdentity(legacy, { signal, progress: () => undefined, env: {} });
      const role = `client_${client.clientId}`;
      const jwt = await client.jwt('vault');
      const agents = async (): Promise<string> =>
        (await site.run('/opt/spire/bin/spire-server agent list -socketPath /run/spire-admin/api.sock -output json', 'root', containerOf('spireServer'))).stdout; // prettier-ignore
      const alias = `JSON.stringify((await spire.listEntries({ trustDomain: td, path: '/c/${client.clientId}' })).map(({ parentId }) => parentId.path))`;
      const [agent = ''] = (await insideServer(site, `console.log(${alias})`)) as string[];
      assert.ok((await agents()).includes(agent) && agent !== '');
      await using session = await vault.login(role, jwt);
      assert.equal((await administer(`remove ${client.clientId} --yes`, 'legacyServer')).code, 0);
      await assert.rejects(session.writeNew(`${role}/x`, {}), refused('vault-forbidden'));
      await assert.rejects(vault.login(role, jwt), refused('vault-role-unknown'));
      assert.ok(!(await agents()).includes(agent));
      // The agent hears of it when it next asks SPIRE; until then it hands out what it had.
      const asked = (): Promise<HpcsError | undefined> =>
        client.jwt(`other-${randomBytes(4).toString('hex')}`).then(
          () => undefined,
          (error: HpcsError) => error,
        );
      let refusal = await asked();
      for (; refusal === undefined; refusal = await asked()) await sleep(500);
      assert.match(refusal.code, /^(no-identity|workload-api-)/);
    });

    it('is none of those whose one key was revoked: another key of theirs goes on', async () => {
      const name = `gina-${run}`;
      await using gina = await enrolPerson(site, name);
      const before = JSON.parse((await administer('clients --json')).stdout) as { name: string; keys: string[] }[];
      const [lost = ''] = before.find((client) => client.name === name)?.keys ?? [];
      await using other = await enrolPerson(site, name);
      const revoked = await administer(`revoke-key -- ${lost}`);
      assert.equal(revoked.code, 0, revoked.stderr);
      await assert.rejects(gina.identity.jwt('vault'), refused('hpcs-unauthenticated', /not enrolled here, or no longer/));
      await other.identity.jwt('vault');
      assert.equal((await administer(`revoke-key -- ${lost}`)).code, 2);
    });
  });

  describe('what servers leave', () => {
    it('does not collide: two that read for the same job at once both answer', async () => {
      for (let round = 0; round < 3; round++) {
        const job = await here.register(anna, { data: await here.store(anna, someRecord()) });
        const key = await newKey();
        await Promise.all([here.redeem(job, key), there.redeem(job, key), here.redeem(job, key)]);
        await server.endJob(job.hash, anna.identity.prove);
      }
      assert.deepEqual(
        (await owner.list('auth/jwt/role')).filter((name) => name.startsWith('job_')),
        [],
      );
    });

    it('is removed with the job, should one die while it reads: role, policy, entity', async () => {
      const job = await here.register(anna, { data: await here.store(anna, someRecord()) });
      await redeemed(job);
      const record = (await stored(`jobs/${job.hash.slice(0, 2)}/${job.hash}`)) as { handle: string; readings: string[] };
      const role = `job_${record.readings[0]}`;
      const subject = `spiffe://${config['spire-server']['trust-domain']}/c/${anna.identity.clientId}/j/${record.handle}/${record.readings[0]}`;
      const accessor = ((await owner.ask('GET', 'sys/auth/jwt')).body as { data: { accessor: string } }).data.accessor;
      await owner.ask('POST', `sys/policies/acl/${role}`, { policy: 'path "x" { capabilities = ["read"] }' });
      await owner.ask('POST', `auth/jwt/role/${role}`, { role_type: 'jwt', user_claim: 'sub', bound_subject: subject, token_policies: [role] }); // prettier-ignore
      const made = (await owner.ask('POST', 'identity/entity', { name: role })).body as { data: { id: string } };
      await owner.ask('POST', 'identity/entity-alias', { name: subject, canonical_id: made.data.id, mount_accessor: accessor });
      await server.endJob(job.hash, anna.identity.prove);
      for (const path of [`auth/jwt/role/${role}`, `sys/policies/acl/${role}`, `identity/entity/id/${made.data.id}`])
        assert.equal((await owner.ask('GET', path)).status, 404, path);
    });
  });

  describe('commands', () => {
    it('publish under conditions, show, add, take back and destroy, by the path of the info record', async () => {
      const input = join(site.temporary, 'input.txt');
      await writeFile(input, 'x');
      const prepare = (...words: string[]) =>
        anna.hpcs(['data-prep', '-i', input, '--data-path', 'c.tgz', '--data-path-at-rest', site.scratch, ...words]);
      const info = `${site.scratch}/c.tgz.info.yaml`;
      const nobody = await prepare('--grant-jobs', '2');
      assert.equal(nobody.code, 2, nobody.stderr);
      assert.match(nobody.stderr, /nobody is named/);
      const ambiguous = await prepare('-u', 'alice');
      assert.equal(ambiguous.code, 2, ambiguous.stderr);
      assert.match(ambiguous.stderr, /another client of the HPCS server is enrolled under that name[\s\S]*-u [0-9a-f]{9}/);
      const image = 'c'.repeat(128);
      const made = await prepare('-u', `bert-${run}`, '--grant-jobs', '2', '--grant-until', '30d', '--grant-image', image);
      assert.equal(made.code, 0, made.stderr);

      const shown = await anna.hpcs(['access', 'list', info]);
      assert.match(shown.stdout, new RegExp(`client bert-${run} \\([0-9a-f]{9}\\); with the image c{16}… only; until 2\\S+Z; 0 of 2 jobs used`)); // prettier-ignore
      const secret = /client_[0-9a-f]{9}\/\S+/.exec(shown.stdout)?.[0] ?? '';
      const added = await anna.hpcs(['access', 'grant', info, '-u', `eve-${run}`, '--grant-image', info]);
      assert.equal(added.code, 7, 'data are no image');
      assert.equal((await anna.hpcs(['access', 'grant', info, '-u', `eve-${run}`])).code, 0);
      assert.match((await anna.hpcs(['access', 'list'])).stdout, new RegExp(`client eve-${run}`));
      const taken = await anna.hpcs(['access', 'revoke', secret, '-u', `eve-${run}`]);
      assert.equal(taken.code, 0, taken.stderr);
      assert.doesNotMatch(taken.stdout, /eve-/);
      assert.equal((await anna.hpcs(['access', 'revoke', secret, '-u', `eve-${run}`])).code, 2);

      // What the site shows is not taken for what was published there.
      await site.run(`sed -i 's/c-tgz-/d-tgz-/g' ${info}`);
      const swapped = await anna.hpcs(['access', 'destroy', info, '--yes']);
      assert.equal(swapped.code, 7, swapped.stderr);
      const unasked = await anna.hpcs(['access', 'destroy', secret]);
      assert.equal(unasked.code, 2, unasked.stderr);
      assert.match(unasked.stderr, /nothing was destroyed/);
      assert.equal((await owner.ask('GET', `kv/data/${secret}`)).status, 200);
      const stranger = await eve.hpcs(['access', 'destroy', secret, '--yes']);
      assert.equal(stranger.code, 4, stranger.stderr);
      const destroyed = await anna.hpcs(['access', 'destroy', secret, '--yes']);
      assert.equal(destroyed.code, 0, destroyed.stderr);
      assert.match(destroyed.stderr, /a job that has read it has it still/);
      assert.equal((await owner.ask('GET', `kv/metadata/${secret}`)).status, 404);
    });

    it('take a user name on the site that only the command line gives for the one who calls', async () => {
      const input = join(site.temporary, 'input.txt');
      await writeFile(input, 'x');
      const configuration = `${anna.configuration}.other`;
      const usual = await readFile(anna.configuration, 'utf8');
      await writeFile(configuration, usual.replace(/^username ?= ?alice$/m, 'username = nobody-there'));
      const words = ['data-prep', '-i', input, '--data-path-at-rest', site.scratch, '--username', 'alice', '-u', 'alice'];
      const ambiguous = await anna.hpcs(words, { env: { HPCS_CONFIG: configuration } });
      assert.equal(ambiguous.code, 2, ambiguous.stderr);
      assert.match(ambiguous.stderr, /alice is your user name on the site, and another client/);
      // The digest of an image is asked of the site, too.
      const image = ['--grant-image', `${site.scratch}/none.sif.info.yaml`];
      const missing = await anna.hpcs([...words, ...image], { env: { HPCS_CONFIG: configuration } });
      assert.equal(missing.code, 5, missing.stderr);
      assert.match(missing.stderr, /none\.sif\.info\.yaml/);
    });

    it('act on no artefact that the site alone names, where nobody could stop them', async () => {
      const secret = await here.store(anna, someRecord());
      const name = secretOf(secret);
      const client = anna.identity.clientId;
      const path = `${site.scratch}/public.tgz`;
      const shown = renderInfoRecord({
        path_at_rest: path,
        secret_path: secret,
        access_role: `client_${client}-${name}`,
        checksum: 'a'.repeat(128),
        spiffeID: `spiffe://${config['spire-server']['trust-domain']}/c/${client}/s/${name}`,
        format: 'openpgp',
      });
      const info = `${path}.info.yaml`;
      await site.run(`printf %s '${shown}' > ${info}`);
      const told = new RegExp(`the site alone says that its secret is ${secret}`);
      for (const words of [
        ['grant', info, '-u', `eve-${run}`],
        ['destroy', info, '--yes'],
        ['destroy', info],
      ]) {
        const exit = await anna.hpcs(['access', ...words]);
        assert.equal(exit.code, 2, exit.stderr);
        assert.match(exit.stderr, told);
      }
      const [access] = await server.listAccess(secret, anna.identity.prove);
      assert.deepEqual(access?.grants, []);
      assert.equal((await owner.ask('GET', `kv/data/${secret}`)).status, 200);
      const given = await anna.hpcs(['access', 'grant', secret, '-u', `eve-${run}`]);
      assert.equal(given.code, 0, given.stderr);
      for (const words of [
        ['list', info],
        ['revoke', info, '--all'],
      ]) {
        const exit = await anna.hpcs(['access', ...words]);
        assert.equal(exit.code, 0, exit.stderr);
        assert.match(exit.stderr, told);
      }
    });
  });
});

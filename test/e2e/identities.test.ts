import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Decrypter } from 'age-encryption';
import { loadConfig, type Config } from '../../src/config.ts';
import type { HpcsError } from '../../src/errors.ts';
import type { HpcsServer } from '../../src/hpcs.ts';
import { HttpClient, readCa } from '../../src/http.ts';
import { generateProofKey, keyProver } from '../../src/identity/proof.ts';
import { makeTicket, ticketHash } from '../../src/job/ticket.ts';
import type { VaultRecord } from '../../src/record.ts';
import { generateKey } from '../../src/seal/keys.ts';
import { Secret } from '../../src/secret.ts';
import { quote } from '../../src/shell.ts';
import { tokenNode } from '../../src/sandbox/hpcs-server.ts';
import { Vault } from '../../src/vault.ts';
import type { CliExit } from '../support/cli.ts';
import { logged, logOf } from '../support/container-log.ts';
import { jobArguments, prepareData, prepareImage, probe, type Prepared } from '../support/jobs.ts';
import { VaultOwner } from '../support/owner.ts';
import { enrolmentToken, enrolPerson, serverOf, type Person } from '../support/people.ts';
import { refused } from '../support/refused.ts';
import { containerOf, Site } from '../support/site.ts';
import { newKey, someRecord, Submissions } from '../support/submissions.ts';
import { infoRecord, vaultRecord } from '../support/vault.ts';
import { tokenPattern, withoutThumbprints } from '../support/tokens.ts';

describe('identities that nobody can steal', function () {
  this.timeout(180_000);
  const run = randomBytes(4).toString('hex');
  const resources = new AsyncDisposableStack();
  let site: Site;
  let config: Config;
  let server: HpcsServer;
  let api: HttpClient;
  let vault: Vault;
  let submissions: Submissions;
  let owner: VaultOwner;
  let anna: Person;
  let bert: Person;
  let carl: Person;
  let eve: Person;

  before(async function () {
    this.timeout(1_800_000);
    site = resources.use(await Site.open());
    config = await loadConfig(site.configuration);
    server = resources.use(await serverOf(config));
    const ca = await readCa(config['hpcs-server']['ca-file']);
    api = resources.use(new HttpClient({ url: config['hpcs-server'].url, ca, name: 'HPCS server' }));
    vault = resources.use(new Vault({ url: config.vault.url, ca, namespace: config.vault.namespace }));
    submissions = new Submissions(server, vault);
    owner = resources.use(await VaultOwner.open(site));
    const enrolled = await Promise.all([
      enrolPerson(site, `anna-${run}`),
      enrolPerson(site, `bert-${run}`, `--groups team-${run}`),
      enrolPerson(site, `carl-${run}`),
      enrolPerson(site, `eve-${run}`),
    ]);
    [anna, bert, carl, eve] = enrolled;
    for (const person of enrolled) resources.use(person);
  });

  after(() => resources.disposeAsync());

  const record = someRecord;
  const store = (...args: Parameters<Submissions['store']>) => submissions.store(...args);
  const register = (...args: Parameters<Submissions['register']>) => submissions.register(...args);
  const redeem = (...args: Parameters<Submissions['redeem']>) => submissions.redeem(...args);
  const serverLog = (): Promise<string> => logOf(site.docker.getContainer(containerOf('hpcsServer')));
  const serverLogged = (what: RegExp): Promise<string> => logged(site.docker.getContainer(containerOf('hpcsServer')), what);

  describe('clients', () => {
    it('keep their key to themselves, in a file of mode 0600', async () => {
      assert.equal((await stat(anna.keyFile)).mode & 0o777, 0o600);
      const { key } = JSON.parse(await readFile(anna.keyFile, 'utf8')) as { key: { d: string } };
      assert.ok(!(await serverLog()).includes(key.d));
      assert.equal((await site.run(`grep -rlaF ${key.d} /openbao; true`, '', containerOf('openbao'))).stdout, '');
    });

    it('are the same one again with another key under the same name, and another one under another name', async () => {
      await using again = await enrolPerson(site, `anna-${run}`);
      assert.equal(again.identity.clientId, anna.identity.clientId);
      assert.equal(new Set([anna, bert, carl, eve].map(({ identity }) => identity.clientId)).size, 4);
    });

    it('are one client when two keys are enrolled at the same time', async () => {
      const [one, two] = await Promise.all([enrolPerson(site, `twin-${run}`), enrolPerson(site, `twin-${run}`)]);
      assert.equal(one.identity.clientId, two.identity.clientId);
    });

    it('cannot be enrolled under names that are none, or that look like client ids', async () => {
      for (const name of ['Anna', '../x', '*', '{{identity}}', 'a b', 'a%2fb', '0123456af', "''"]) {
        await assert.rejects(enrolmentToken(site, quote(name)), /is not a name to enrol somebody under/, name);
      }
    });

    it('enrol one key with one token', async () => {
      const token = new Secret(await enrolmentToken(site, `once-${run}`));
      const key = keyProver(await generateProofKey());
      const first = await server.enrol(token, key);
      assert.equal((await server.enrol(token, key)).clientId, first.clientId);
      const thief = keyProver(await generateProofKey());
      await assert.rejects(server.enrol(token, thief), refused('hpcs-forbidden', /was used already/));
      await assert.rejects(server.clientToken('vault', thief), refused('hpcs-unauthenticated', /not enrolled/));
    });

    it('get nothing back with a token that was used', async () => {
      const first = new Secret(await enrolmentToken(site, `gone-${run}`, `--groups team-${run}`));
      const prove = keyProver(await generateProofKey());
      const { clientId } = await server.enrol(first, prove);
      const record = `kv/data/hpcs-server/clients/${clientId}`;
      const stored = async (path: string): Promise<{ groups?: string[]; client?: string }> =>
        ((await owner.ask('GET', path)).body as { data: { data: { groups?: string[]; client?: string } } }).data.data;
      const groups = async (): Promise<unknown> => (await stored(record)).groups;
      assert.deepEqual(await groups(), [`team-${run}`]);
      // Invited anew, on another machine: no word of groups leaves them, and a word of none takes them.
      await server.enrol(new Secret(await enrolmentToken(site, `gone-${run}`)), keyProver(await generateProofKey()));
      assert.deepEqual(await groups(), [`team-${run}`]);
      await server.enrol(
        new Secret(await enrolmentToken(site, `gone-${run}`, "--groups ''")),
        keyProver(await generateProofKey()),
      );
      assert.deepEqual(await groups(), []);
      assert.equal((await server.enrol(first, prove)).clientId, clientId);
      assert.deepEqual(await groups(), [], 'the first token gives no group back');
      for (const name of await owner.list('kv/metadata/hpcs-server/keys')) {
        if ((await stored(`kv/data/hpcs-server/keys/${name}`)).client === clientId)
          await owner.ask('DELETE', `kv/metadata/hpcs-server/keys/${name}`);
      }
      await assert.rejects(server.enrol(first, prove), refused('hpcs-forbidden', /was used already/));
      await assert.rejects(server.clientToken('vault', prove), refused('hpcs-unauthenticated', /not enrolled/));
    });

    it('write nothing into the vault with a token that is none', async () => {
      const names = async (path: string): Promise<string[]> => owner.list(`kv/metadata/hpcs-server/${path}`);
      const proofs = async (): Promise<number> => {
        let count = 0;
        for (const window of await names('proofs')) {
          for (const part of await names(`proofs/${window}`)) count += (await names(`proofs/${window}${part}`)).length;
        }
        return count;
      };
      const before = await proofs();
      assert.ok(before > 0);
      const prove = keyProver(await generateProofKey());
      const guess = new Secret(randomBytes(32).toString('base64url'));
      for (let round = 0; round < 5; round++) await assert.rejects(server.enrol(guess, prove), refused('hpcs-forbidden'));
      // Fewer, where the server tidied up meanwhile.
      assert.ok((await proofs()) <= before);
    });

    it('enrol nothing with a token that is guessed, too old, or none', async () => {
      const prove = keyProver(await generateProofKey());
      const guessed = new Secret(randomBytes(32).toString('base64url'));
      await assert.rejects(server.enrol(guessed, prove), refused('hpcs-forbidden', /not known/));
      await assert.rejects(server.enrol(new Secret('../clients/x'), prove), refused('hpcs-bad-request'));
      const token = await enrolmentToken(site, `late-${run}`);
      for (const name of await owner.list('kv/metadata/hpcs-server/enrolments')) {
        const path = `kv/data/hpcs-server/enrolments/${name}`;
        const { data } = (await owner.ask('GET', path)).body as { data: { data: { name: string; key: null } } };
        if (data.data.name !== `late-${run}`) continue;
        await owner.ask('POST', path, { data: { ...data.data, expires: '2026-01-01T00:00:00Z' } });
      }
      await assert.rejects(server.enrol(new Secret(token), prove), refused('hpcs-forbidden', /too old/));
    });

    it('prove every call: no proof, no identity', async () => {
      for (const path of ['/api/client/token', '/api/client/grants', '/api/jobs', '/api/jobs/end']) {
        for (const headers of [
          {},
          { 'remote-addr': '127.0.0.1', 'x-forwarded-for': '127.0.0.1' },
          { authorization: 'Basic x' },
        ]) {
          const { status } = await api.json('POST', path, { body: { audience: 'vault' }, headers });
          assert.equal(status, 401, path);
        }
      }
      const stranger = keyProver(await generateProofKey());
      await assert.rejects(server.clientToken('vault', stranger), refused('hpcs-unauthenticated', /not enrolled/));
    });

    it('prove each call with another proof: a captured one counts for nothing, at no server of this vault', async () => {
      const url = `${config['hpcs-server'].url}/api/client/token`;
      const body = JSON.stringify({ audience: 'vault' });
      const proof = await anna.identity.prove({ method: 'POST', url, body });
      const show = async (to: HttpClient, path = '/api/client/token', change: object = {}) =>
        (await to.json('POST', path, { body: { audience: 'vault', ...change }, headers: proof })).status;
      assert.equal(await show(api, '/api/jobs/end'), 401);
      assert.equal(await show(api, '/api/client/token', { audience: 'hpcs-server' }), 401);
      assert.equal(await show(api), 200);
      assert.equal(await show(api), 401);
      // The other server shares nothing with the first but the vault.
      const legacy = await loadConfig(site.legacyConfiguration);
      const ca = await readCa(config['hpcs-server']['ca-file']);
      await using other = new HttpClient({ url: legacy['hpcs-server'].url, ca, name: 'other server' });
      assert.equal(await show(other), 401);
      const elsewhere = await anna.identity.prove({ method: 'POST', url: url.replace('127.0.0.1', 'evil.example'), body });
      assert.equal(
        (await api.json('POST', '/api/client/token', { body: { audience: 'vault' }, headers: elsewhere })).status,
        401,
      );
    });

    it('get tokens for the services alone, each for one of them', async () => {
      await assert.rejects(server.clientToken('spire', anna.identity.prove), refused('hpcs-forbidden'));
      const forServer = await anna.identity.jwt('hpcs-server');
      await assert.rejects(vault.login(`client_${anna.identity.clientId}`, forServer), refused('vault-audience'));
      const forVault = await anna.identity.jwt('vault');
      const shown = await api.json('POST', '/api/jobs/end', {
        body: { ticket: '0'.repeat(64) },
        headers: { authorization: `Bearer ${forVault.reveal()}` },
      });
      assert.equal(shown.status, 401);
      // A token of minutes makes no other: it would never end.
      for (const audience of ['vault', 'hpcs-server']) {
        const headers = { authorization: `Bearer ${forServer.reveal()}` };
        assert.equal((await api.json('POST', '/api/client/token', { body: { audience }, headers })).status, 403);
      }
    });

    it('are not taken for others in the vault', async () => {
      const { clientId } = eve.identity;
      await assert.rejects(
        vault.login(`client_${anna.identity.clientId}`, await eve.identity.jwt('vault')),
        refused('vault-subject'),
      );
      await assert.rejects(vault.login('hpcs-server', await eve.identity.jwt('vault')), refused('vault-subject'));
      const path = await store(anna, record());
      await using session = await vault.login(`client_${clientId}`, await eve.identity.jwt('vault'));
      for (const [method, target] of [
        ['GET', `kv/data/${path}`],
        ['POST', `kv/data/${path}`],
        ['DELETE', `kv/data/${path}`],
        ['DELETE', `kv/metadata/${path}`],
        ['POST', `kv/data/client_${anna.identity.clientId}/new`],
        ['GET', `kv/data/client_${clientId}/../client_${anna.identity.clientId}/x`],
        ['LIST', 'kv/metadata/hpcs-server/keys'],
        ['POST', 'kv/data/hpcs-server/keys/x'],
        ['POST', `sys/policies/acl/client_${clientId}`],
        ['POST', `auth/jwt/role/client_${clientId}`],
        ['POST', 'auth/token/create'],
      ] as const) {
        const { status } = await session.request(method, `/v1/${target}`, method === 'POST' ? { data: {} } : undefined);
        assert.ok([400, 403, 404, 405].includes(status), `${method} ${target} gave ${status}`);
        if (!target.includes('..')) assert.equal(status, 403, `${method} ${target} gave ${status}`);
      }
      assert.equal((await owner.ask('GET', `kv/data/${path}`)).status, 200);
    });

    it('publish for people that exist, or say so before anything goes up; and need not name themselves', async () => {
      const prepare = (users: string) =>
        anna.hpcs([
          'data-prep',
          '-i',
          site.configuration,
          '-u',
          users,
          '--data-path',
          `${run}.tgz`,
          '--data-path-at-rest',
          site.scratch,
        ]);
      const exit = await prepare('alice,nobody-at-all');
      assert.equal(exit.code, 2, exit.stderr);
      assert.match(exit.stderr, /nobody is enrolled at the HPCS server as nobody-at-all/);
      assert.equal((await site.run(`ls ${site.scratch}`)).stdout.includes(run), false);
      assert.equal((await prepare(`bert-${run}`)).code, 0);
    });

    it('grant what is theirs, to people that exist', async () => {
      const path = await store(anna, record());
      const secret = path.split('/')[1] ?? '';
      // The path is made of the caller's own id: there is no word for somebody else's.
      const granted = await server.permit({ secret, clients: [`eve-${run}`], groups: [] }, eve.identity.prove);
      assert.equal(granted.secretPath, `client_${eve.identity.clientId}/${secret}`);
      await assert.rejects(register(eve, { data: path }), refused('hpcs-forbidden', /not granted/));
      await assert.rejects(
        server.permit({ secret, clients: ['nobody-at-all'], groups: [] }, anna.identity.prove),
        refused('hpcs-bad-request', /nobody is enrolled here as nobody-at-all/),
      );
      await assert.rejects(
        server.permit({ secret, clients: [`eve-${run}`], groups: [] }, anna.identity.prove),
        refused('hpcs-conflict'),
      );
    });

    it('grant nothing whose name differs from another in case alone', async () => {
      await assert.rejects(
        server.permit({ secret: 'X.TGZ', clients: [], groups: [] }, anna.identity.prove),
        refused('hpcs-bad-request'),
      );
    });

    for (const secret of ['../x', 'x/../../y', 'x%2fy', '*', 'a\nb', '..', '', '+', '{{identity.entity.id}}']) {
      it(`grant nothing named ${JSON.stringify(secret)}, and run no job on it`, async () => {
        await assert.rejects(
          server.permit({ secret, clients: [], groups: [] }, anna.identity.prove),
          refused('hpcs-bad-request'),
        );
        const job = { job: '1', ticket: '0'.repeat(64) };
        const artefacts = [{ role: 'data' as const, secret_path: `client_${anna.identity.clientId}/${secret}` }];
        await assert.rejects(server.registerJob({ ...job, artefacts }, anna.identity.prove), refused('hpcs-bad-request'));
      });
    }
  });

  describe('jobs', () => {
    it('get the records of three owners, and nothing stays in the vault that could read them', async () => {
      const image = record({ kind: 'image' });
      const data = record();
      const paths = {
        image: await store(anna, image, { clients: [`carl-${run}`] }),
        data: await store(bert, data, { clients: [carl.identity.clientId] }),
      };
      const job = await register(carl, paths);
      const key = await generateKey('age');
      const before = await owner.list('identity/entity/id');
      const sealed = await redeem(job, key.publicKey);
      const decrypter = new Decrypter();
      decrypter.addIdentity(key.secretKey.reveal());
      const records = JSON.parse(await decrypter.decrypt(sealed, 'text')) as Record<string, VaultRecord>;
      assert.deepEqual(Object.keys(records).toSorted(), ['data', 'image', 'job']);
      assert.equal(records['image']?.key, image.key);
      assert.equal(records['data']?.key, data.key);
      for (const path of ['auth/jwt/role', 'sys/policies/acl']) {
        assert.deepEqual(
          (await owner.list(path)).filter((name) => name.startsWith('job_')),
          [],
          path,
        );
      }
      assert.deepEqual((await owner.list('identity/entity/id')).toSorted(), before.toSorted());
      // The fourth is nobody's submitter.
      await assert.rejects(register(eve, paths), refused('hpcs-forbidden', /not granted to client/));
      assert.deepEqual(await server.endJob(job.hash, carl.identity.prove), { stolen: false, redeemed: true });
      assert.equal((await owner.ask('GET', `kv/data/${job.jobSecret}`)).status, 404);
      assert.equal((await owner.ask('GET', `kv/data/${paths.data}`)).status, 200);
    });

    it('may be those of a group', async () => {
      const path = await store(anna, record(), { groups: [`team-${run}`] });
      await redeem(await register(bert, { data: path }), await newKey());
      await assert.rejects(register(carl, { data: path }), refused('hpcs-forbidden'));
    });

    it('lose what was taken back from them while they waited', async () => {
      const path = await store(anna, record(), { clients: [`carl-${run}`] });
      const job = await register(carl, { data: path });
      await owner.ask('DELETE', `kv/metadata/hpcs-server/grants/${path.replace('client_', '')}`);
      await assert.rejects(redeem(job, await newKey()), refused('hpcs-forbidden', /not granted/));
    });

    it('have a secret of their submitter alone', async () => {
      const path = await store(anna, record({ kind: 'job' }), { clients: [`eve-${run}`] });
      const artefacts = [{ role: 'job' as const, secret_path: path }];
      const registration = { job: '1', ticket: ticketHash(makeTicket()), artefacts };
      await assert.rejects(server.registerJob(registration, eve.identity.prove), refused('hpcs-forbidden', /submitter alone/));
    });

    it('are told apart by their tickets: neither half is enough', async () => {
      const job = await register(anna, { data: await store(anna, record()) });
      const other = makeTicket();
      for (const ticket of [
        { ...job.ticket, fileHalf: other.fileHalf },
        { ...job.ticket, scriptHalf: other.scriptHalf },
        { scriptHalf: job.ticket.fileHalf, fileHalf: job.ticket.scriptHalf },
        { scriptHalf: job.ticket.scriptHalf, fileHalf: job.ticket.scriptHalf },
        other,
      ])
        await assert.rejects(redeem({ ticket, job: job.job }, await newKey()), refused('hpcs-unauthenticated', /not known/));
      // Nor is what the server knows of it.
      const half = job.hash.slice(0, 32);
      const hashed = { scriptHalf: new Secret(half), fileHalf: new Secret(job.hash.slice(32)) };
      await assert.rejects(redeem({ ticket: hashed, job: job.job }, await newKey()), refused('hpcs-unauthenticated'));
      await redeem(job, await newKey());
    });

    it('cannot use the ticket of another', async () => {
      const one = await register(anna, { data: await store(anna, record()) });
      const two = await register(anna);
      await assert.rejects(redeem({ ...one, job: two.job }, await newKey()), refused('hpcs-forbidden', /that of another job/));
      await serverLogged(new RegExp(`"job":"${one.job}".*"shown":"${two.job}".*"msg":"ticket of another job"`));
    });

    it('may ask again with their key, since an answer can be lost', async () => {
      const job = await register(anna, { data: await store(anna, record()) });
      const key = await newKey();
      const answers = await Promise.all([redeem(job, key), redeem(job, key)]);
      answers.push(await redeem(job, key));
      assert.equal(answers.length, 3);
    });

    it('raise the alarm when a second key comes: nobody gets anything any more, and the submitter is told', async () => {
      const job = await register(anna, { data: await store(anna, record()) });
      const key = await newKey();
      await redeem(job, key);
      const thief = await newKey();
      await assert.rejects(redeem(job, thief), refused('hpcs-forbidden', /two different keys/));
      await assert.rejects(redeem(job, key), refused('hpcs-forbidden', /two different keys/));
      await assert.rejects(redeem(job, thief), refused('hpcs-forbidden', /two different keys/));
      await serverLogged(new RegExp(`"level":50.*"job":"${job.job}".*"second":"${thief}".*second key: revoked`));
      // Its secret is destroyed, with all versions.
      assert.equal((await owner.ask('GET', `kv/metadata/${job.jobSecret}`)).status, 404);
      assert.deepEqual(await server.endJob(job.hash, anna.identity.prove), { stolen: true, redeemed: true });
    });

    it('never give two keys to two who come at the same time', async () => {
      for (let round = 0; round < 5; round++) {
        const job = await register(anna, { data: await store(anna, record()) });
        const results = await Promise.allSettled([redeem(job, await newKey()), redeem(job, await newKey())]);
        assert.ok(results.filter(({ status }) => status === 'fulfilled').length <= 1);
        assert.deepEqual(await server.endJob(job.hash, anna.identity.prove), { stolen: true, redeemed: true });
      }
    });

    it('have tickets that end: by the clock, and with the job', async () => {
      const late = await register(anna, { data: await store(anna, record()) });
      const path = `kv/data/hpcs-server/jobs/${late.hash.slice(0, 2)}/${late.hash}`;
      const { data } = (await owner.ask('GET', path)).body as { data: { data: object } };
      await owner.ask('POST', path, { data: { ...data.data, expires: '2026-01-01T00:00:00Z' } });
      await assert.rejects(redeem(late, await newKey()), refused('hpcs-unauthenticated', /has expired/));
      const cancelled = await register(anna, { data: await store(anna, record()) });
      await server.endJob(cancelled.hash, anna.identity.prove);
      await assert.rejects(redeem(cancelled, await newKey()), refused('hpcs-unauthenticated'));
    });

    it('of connected mode get nothing with their ticket alone: their submitter redeems it, with a proof', async () => {
      const job = await register(anna, { data: await store(anna, record()) }, { connected: true });
      const key = await newKey();
      await assert.rejects(redeem(job, key), refused('hpcs-forbidden', /without a proof of its submitter/));
      const request = { halves: [job.ticket.scriptHalf, job.ticket.fileHalf], job: job.job, key } as const;
      await assert.rejects(
        server.redeem({ ...request, prove: eve.identity.prove }),
        refused('hpcs-forbidden', /of its submitter/),
      );
      const stranger = keyProver(await generateProofKey());
      await assert.rejects(server.redeem({ ...request, prove: stranger }), refused('hpcs-unauthenticated'));
      await serverLogged(new RegExp(`"level":50.*"job":"${job.job}".*connected job without its client`));
      // None of them bound the ticket to a key.
      await server.redeem({ ...request, key: await newKey(), prove: anna.identity.prove });
      await assert.rejects(redeem(job, key), refused('hpcs-forbidden', /without a proof of its submitter/));
      assert.deepEqual(await server.endJob(job.hash, anna.identity.prove), { redeemed: true, stolen: false });
    });

    it('are ended by their submitter alone, and registered once', async () => {
      const job = await register(anna);
      await assert.rejects(server.endJob(job.hash, eve.identity.prove), refused('hpcs-forbidden', /not yours/));
      const artefacts = [{ role: 'job' as const, secret_path: await store(eve, record({ kind: 'job' })) }];
      await assert.rejects(
        server.registerJob({ ...job.registration, artefacts }, eve.identity.prove),
        refused('hpcs-conflict', /registered already/),
      );
      await redeem(job, await newKey());
    });

    it('get nothing when the record is not the one that was submitted', async () => {
      const path = await store(anna, record());
      const ticket = makeTicket();
      const artefacts = [{ role: 'data' as const, secret_path: path, sha512: 'b'.repeat(128) }];
      const job = { job: '999999', ticket: ticketHash(ticket), artefacts };
      await server.registerJob(job, anna.identity.prove);
      await assert.rejects(redeem({ ticket, job: job.job }, await newKey()), refused('record-mismatch', /not the one/));
    });

    it('seal to keys that are keys', async () => {
      const job = await register(anna);
      // The point of order one: what is sealed to it, everybody can open.
      const low = 'age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqa0gfen';
      for (const key of ['', 'age1', low, `${await newKey()}x`])
        await assert.rejects(redeem(job, key), (error: HpcsError) => error.code.startsWith('hpcs-'));
    });
  });

  describe('another user of the site, with all that this account can read', () => {
    let image: Prepared;
    let data: Prepared;

    before(async () => {
      await site.image('hpcs-test/probe', {
        Dockerfile: 'FROM debian:bookworm-slim\nCOPY probe /probe\nENTRYPOINT ["/probe"]\nCMD ["default"]\n',
        probe,
      });
      image = await prepareImage(site, 'hpcs-test/probe');
      await mkdir(join(site.temporary, 'input'));
      data = await prepareData(site, join(site.temporary, 'input'));
    });

    /** What mallory finds of these words: in files, in processes, and in all that Slurm tells about the job. */
    const finds = async (words: readonly string[], jobId: string): Promise<string> => {
      const slurm = [
        `scontrol show job ${jobId}`,
        `scontrol write batch_script ${jobId} -`,
        `squeue -j ${jobId} -O all`,
        `sacct -j ${jobId} -P -o all`,
        'env',
      ];
      const pattern = words.map((word) => `-e ${word}`).join(' ');
      const { stdout } = await site.run(
        `{ ${slurm.map((command) => `${command} 2>&1`).join('; ')}; } | grep -F ${pattern}
for p in /proc/[0-9]*; do cat $p/environ $p/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -vF -- '-e ' | grep -F ${pattern}; done
find / -xdev -type f -readable -size -2M -not -path '/proc/*' -not -path '/sys/*' -print0 2>/dev/null | xargs -0 grep -lF ${pattern} 2>/dev/null
find /scratch /tmp /dev/shm -type f -readable -size -2M -print0 2>/dev/null | xargs -0 grep -lF ${pattern} 2>/dev/null; true`,
        'mallory',
      );
      return stdout;
    };
    const halvesOf = async (jobId: string): Promise<{ script: string; file: string; path: string }> => {
      const { stdout } = await site.run(`scontrol write batch_script ${jobId} -`);
      const script = /"ticketHalf": "([0-9a-f]{32})"/.exec(stdout)?.[1] ?? '';
      const path = /"ticketFile": "([^"]+)"/.exec(stdout)?.[1] ?? '';
      return { script, path, file: (await site.run(`cat ${path}`)).stdout.trim() };
    };
    /** Submits a job while nothing is started. */
    const submitHeld = async (args: string[]): Promise<{ jobId: string; running: Promise<CliExit> }> => {
      await site.run('scontrol update PartitionName=standard State=DOWN', 'root');
      const submitted = Promise.withResolvers<string>();
      const running = site.hpcs(jobArguments(site, image, data, args), {
        onStderr: (text) => {
          const [, id] = /^job (\d+) is spiffe:/m.exec(text) ?? [];
          if (id !== undefined) submitted.resolve(id);
        },
      });
      const jobId = await Promise.race([submitted.promise, running.then((exit) => assert.fail(exit.stderr))]);
      for (let attempt = 0; attempt < 100; attempt++) {
        if (/Priority=[1-9]/.test((await site.run(`scontrol -o show job ${jobId}`)).stdout)) return { jobId, running };
        await sleep(200);
      }
      return assert.fail(`job ${jobId} was not released`);
    };
    /** Secrets in the vault that single jobs of a client have. */
    const jobSecrets = async (client: string): Promise<string[]> =>
      (await owner.list(`kv/metadata/client_${client}`)).filter((name) => name.startsWith('job-test-'));
    const start = (): Promise<unknown> => site.run('scontrol update PartitionName=standard State=UP', 'root');

    afterEach(start);

    it('finds no half of the ticket before, during and after the job, and no key', async () => {
      const { jobId, running } = await submitHeld(['--', 'sleep', '15']);
      const ticket = await halvesOf(jobId);
      for (const half of [ticket.script, ticket.file]) assert.match(half, /^[0-9a-f]{32}$/);
      assert.notEqual((await site.run(`cat ${ticket.path}`, 'mallory')).code, 0);
      const words = [ticket.script, ticket.file];
      // The search finds what is there to be found.
      await site.run(`echo ${ticket.script} > /tmp/found; chmod 644 /tmp/found`);
      assert.match(await finds(words, jobId), /^\/tmp\/found$/m);
      await site.run('rm /tmp/found');
      assert.equal(await finds(words, jobId), '');
      await start();
      while ((await site.run('pgrep -u alice -f "[p]robe sleep"')).code !== 0) await sleep(200);
      for (const { info } of [image, data]) {
        const { key } = await vaultRecord(site, await infoRecord(site, info));
        words.push(quote(key.split('\n')[4] ?? ''));
      }
      assert.equal(await finds(words, jobId), '');
      assert.equal((await running).code, 0);
      assert.equal(await finds(words, jobId), '');
      // Nor would the ticket have opened anything any more.
      const late = { scriptHalf: new Secret(ticket.script), fileHalf: new Secret(ticket.file) };
      await assert.rejects(redeem({ ticket: late, job: jobId }, await newKey()), refused('hpcs-unauthenticated'));
      assert.notEqual((await site.run(`ls ${ticket.path}`)).code, 0);
    });

    it('who had both halves nevertheless, and came first, does not go unnoticed', async () => {
      const { jobId, running } = await submitHeld(['--', 'args', 'x']);
      const ticket = await halvesOf(jobId);
      const halves = { scriptHalf: new Secret(ticket.script), fileHalf: new Secret(ticket.file) };
      await redeem({ ticket: halves, job: jobId }, await newKey());
      await start();
      const ended = await running;
      assert.equal(ended.code, 4, ended.stderr);
      assert.match(ended.stderr, /the ticket came with two different keys/);
      assert.match(ended.stderr, /warning: ALARM: the ticket of job \d+ was shown with two different keys/);
      assert.doesNotMatch(ended.stderr, /application: starting/);
    });

    it('finds no secret of a submission that the scheduler refused, since none stays in the vault', async () => {
      const [, client = ''] = /^client_([0-9a-f]{9})\//.exec((await infoRecord(site, data.info)).secret_path) ?? [];
      const before = await jobSecrets(client);
      const exit = await site.hpcs(jobArguments(site, image, data, ['-p', 'nosuch', '--', 'args', 'x']));
      assert.equal(exit.code, 6, exit.stderr);
      assert.deepEqual(await jobSecrets(client), before);
      assert.doesNotMatch((await site.hpcsOk(['job', 'list'])).stdout, /not submitted/);
    });

    it('who had both halves nevertheless, and cancels the job lest it comes too, does not go unnoticed', async () => {
      const { jobId, running } = await submitHeld(['--', 'args', 'x']);
      const ticket = await halvesOf(jobId);
      const halves = { scriptHalf: new Secret(ticket.script), fileHalf: new Secret(ticket.file) };
      await redeem({ ticket: halves, job: jobId }, await newKey());
      await site.run(`scancel ${jobId}`);
      const alarm = /warning: ALARM: the ticket of job \d+ was redeemed, and the job never ran/;
      assert.match((await running).stderr, alarm);
      // Whoever did not see it then, sees it later.
      assert.match((await site.hpcs(['job', 'status', jobId])).stderr, alarm);
    });

    it('does not get at artefacts that were granted to somebody else: the submission is refused, and leaves nothing', async () => {
      const before = (await site.run('squeue -h -o %i | sort | tail -1')).stdout;
      const exit = await eve.hpcs(jobArguments(site, image, data, ['--', 'args', 'x']));
      assert.equal(exit.code, 4, exit.stderr);
      assert.match(exit.stderr, /refused \(403\): the secret client_[0-9a-f]{9}\/\S+ is not granted to client [0-9a-f]{9}/);
      assert.equal((await site.run('squeue -h -o %i | sort | tail -1')).stdout, before);
      assert.equal((await site.run('ls /scratch/project_462000031/alice/.hpcs/ticket-*')).stdout, '');
      assert.deepEqual(await jobSecrets(eve.identity.clientId), []);
    });
  });

  describe('old calls', () => {
    it('give no identities: no client, no node, of whatever name', async () => {
      const before = (await site.run('/opt/spire/bin/spire-server entry count -socketPath /run/spire-admin/api.sock; /opt/spire/bin/spire-server agent count -socketPath /run/spire-admin/api.sock', 'root', containerOf('spireServer'))).stdout; // prettier-ignore
      assert.match(before, /\d+ registration entr/);
      const { status, body } = await api.json('POST', '/api/client/register');
      assert.equal(status, 403);
      assert.match((body as { message: string }).message, /gives no identities to callers it cannot authenticate/);
      // This server has an allow list, with which callers are asked who they are first.
      for (const host of ['nid000001', 'other', tokenNode])
        assert.equal((await api.json('POST', `/api/agents/token?hostname=${host}`)).status, 401);
      const now = (await site.run('/opt/spire/bin/spire-server entry count -socketPath /run/spire-admin/api.sock; /opt/spire/bin/spire-server agent count -socketPath /run/spire-admin/api.sock', 'root', containerOf('spireServer'))).stdout; // prettier-ignore
      assert.equal(now, before);
    });
  });

  describe('tokens of nodes', () => {
    it('are for hosts of the allow list alone, and for clients that prove who they are', async () => {
      const { spiffeId } = await server.nodeToken(tokenNode, undefined, anna.identity.prove);
      assert.equal(spiffeId, `spiffe://${config['spire-server']['trust-domain']}/h/${tokenNode}`);
      await serverLogged(new RegExp(`"client":"${anna.identity.clientId}","node":"${tokenNode}".*"node token made"`));
      for (const host of ['nid000001', 'other', tokenNode.toUpperCase(), `${tokenNode}.`, `${tokenNode}2`]) {
        await assert.rejects(
          server.nodeToken(host, undefined, anna.identity.prove),
          refused('hpcs-forbidden', /\[nodes\] does not allow it/),
        );
        await serverLogged(new RegExp(`"node":"${host}".*asked for a host that is not allowed`));
      }
      for (const host of ['../h/x', '..', '%2e%2e', `${tokenNode}/../nid000001`, `${tokenNode}\n`, '*', ''])
        await assert.rejects(server.nodeToken(host, undefined, anna.identity.prove), refused('hpcs-bad-request', /hostname/));
      const path = '/api/agents/token';
      const stranger = keyProver(await generateProofKey());
      await assert.rejects(server.nodeToken(tokenNode, undefined, stranger), refused('hpcs-unauthenticated', /not enrolled/));
      // A proof covers the body: neither another host there, nor a query, makes a token of it.
      const url = config['hpcs-server'].url + path;
      const prove = () => anna.identity.prove({ method: 'POST', url, body: JSON.stringify({ hostname: tokenNode }) });
      const other = await api.json('POST', path, { body: { hostname: 'nid000001' }, headers: await prove() });
      assert.equal(other.status, 401);
      const both = { body: { hostname: tokenNode }, headers: await prove() };
      const query = await api.json('POST', `${path}?hostname=nid000001`, both);
      assert.equal((query.body as { spiffeID?: string }).spiffeID?.endsWith('nid000001') ?? false, false);
    });
  });

  describe('the server', () => {
    it('writes no token, ticket or key into its log', async () => {
      const job = await register(anna, { data: await store(anna, record({ key: `do-not-log-${run}` })) });
      const token = await anna.identity.jwt('vault');
      await redeem(job, await newKey());
      const log = await serverLog();
      assert.match(log, /job got its keys/);
      for (const secret of [job.ticket.scriptHalf, job.ticket.fileHalf, token]) assert.ok(!log.includes(secret.reveal()));
      for (const pattern of [tokenPattern, /do-not-log-/]) assert.doesNotMatch(withoutThumbprints(log), pattern);
    });
  });
});

import assert from 'node:assert/strict';
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportSPKI, importJWK, type JWK } from 'jose';
import type { HpcsError } from '../../src/errors.ts';
import type { HpcsServer } from '../../src/hpcs.ts';
import { HttpClient, readCa } from '../../src/http.ts';
import { openIdentity } from '../../src/identity/client-identity.ts';
import { generateProofKey, keyProver, thumbprintOf, type Prover } from '../../src/identity/proof.ts';
import { makeTicket, ticketHash } from '../../src/job/ticket.ts';
import { secretName } from '../../src/record.ts';
import { Secret } from '../../src/secret.ts';
import { writeDurably } from '../../src/state.ts';
import { makeCertificate } from '../support/certificate.ts';
import type { CliExit, CliOptions } from '../support/cli.ts';
import { CiIssuers, githubClaims, gitlabClaims, PeopleProvider, signingKey } from '../support/issuer.ts';
import { hostAddress, LoginServer } from '../support/login-server.ts';
import { VaultOwner } from '../support/owner.ts';
import { enrolmentToken, serverOf } from '../support/people.ts';
import { refused } from '../support/refused.ts';
import { containerOf, Site, type Ran } from '../support/site.ts';
import { tokenPattern, withoutThumbprints } from '../support/tokens.ts';

describe('logins with tokens of OpenID Connect issuers', function () {
  this.timeout(120_000);
  const run = randomBytes(4).toString('hex');
  const resources = new AsyncDisposableStack();
  let site: Site;
  let people: PeopleProvider;
  let ci: CiIssuers;
  let down: CiIssuers;
  let login: LoginServer;
  let server: HpcsServer;
  let owner: VaultOwner;
  const account = (name: string): string => `${name}-${run}`;

  before(async function () {
    this.timeout(1_800_000);
    site = resources.use(await Site.open());
    owner = resources.use(await VaultOwner.open(site));
    const host = await hostAddress(site);
    const place = { host, tls: makeCertificate(site.temporary, 'issuers', `IP:${host}`) };
    people = resources.use(
      await PeopleProvider.start(place, (name) => ({ groups: [`staff-${name}`, 'researchers'], email_verified: !name.startsWith('unverified') })),
    ); // prettier-ignore
    ci = resources.use(await CiIssuers.start(place, ['github', 'gitlab', 'bound', 'foreign']));
    down = resources.use(await CiIssuers.start(place, ['down']));
    await down.stop();
    ci.runner = (audience) => ci.sign('github', githubClaims({ aud: audience }));
    const section = (alias: string, url: string, lines: string): string =>
      `[issuer ${alias}]\nurl = ${url}\nca-file = /etc/hpcs/issuers.pem\naudience = hpcs\n${lines}\n`;
    login = resources.use(
      await LoginServer.start(site, {
        sections: [
          section('people', people.url, `kind = people\nrequire = email_verified=true\ngroups-claim = groups\ngroups = researchers=team-${run}`), // prettier-ignore
          section('github', ci.url('github'), 'kind = github\nrepositories = 1001\nowners = 77'),
          section('gitlab', ci.url('gitlab'), 'kind = gitlab\nprojects = 42, 43\nrefs = refs/heads/main, refs/tags/v*'),
          section('bound', ci.url('bound'), 'kind = generic\nbinding = nonce'),
          section('down', down.url('down'), 'kind = generic'),
        ].join('\n'),
        authorities: place.tls.certificate,
        client: `issuer-ca-file=${join(site.temporary, 'issuers.pem')}`,
      }),
    );
    server = resources.use(await serverOf(login.config));
  });

  after(() => resources.disposeAsync());

  /** A machine: a state directory, and what its environment holds. */
  const machine = (name: string, variables: Record<string, string> = {}) => {
    const state = join(site.temporary, name);
    const env = { HPCS_CONFIG: login.configuration, HPCS_STATE_DIR: state, ...variables };
    return {
      state,
      file: join(state, 'client-login.json'),
      hpcs: (args: readonly string[], options: CliOptions = {}): Promise<CliExit> => site.hpcs(args, { ...options, env }),
    };
  };
  /** `hpcs login`, and somebody who follows what it shows. */
  const logIn = async (
    where: ReturnType<typeof machine>,
    name: string,
    decision: 'agree' | 'deny' = 'agree',
  ): Promise<CliExit> => {
    let visit: Promise<void> | undefined;
    const exit = await where.hpcs(['login', '--json'], {
      onStderr: (soFar) => {
        const complete = /or open (https:\S+) and/.exec(soFar)?.[1];
        if (complete !== undefined) visit ??= people.visit(complete, account(name), decision);
      },
    });
    await visit;
    return exit;
  };
  interface Key {
    key: JWK;
    prove: Prover;
    thumbprint: string;
  }
  const newKey = async (): Promise<Key> => {
    const key = await generateProofKey();
    return { key, prove: keyProver(key), thumbprint: await thumbprintOf(key) };
  };
  const github = async (key: Key, changes: object = {}) =>
    ci.sign('github', githubClaims({ aud: `hpcs/key/${key.thumbprint}`, ...changes }));
  const gitlab = (changes: object = {}) => ci.sign('gitlab', gitlabClaims({ aud: 'hpcs', ...changes }));
  const show = (token: string, key: Key) => server.login(new Secret(token), key.prove);
  const works = async (key: Key): Promise<boolean> => {
    try {
      await server.clientToken('vault', key.prove);
      return true;
    } catch (error) {
      assert.ok(refused('hpcs-unauthenticated', /not enrolled|has ended/)(error as never));
      return false;
    }
  };
  const prepare = (name: string) => [
    'data-prep', '-i', 'examples/jp2a/Dockerfile', '-c', 'x', '--data-path', `${name}-${run}.tgz`, '--data-path-at-rest', site.scratch,
  ]; // prettier-ignore

  describe('people', () => {
    it('log in with a browser anywhere, and are the same client on every machine', async () => {
      const [laptop, desktop] = [machine('laptop'), machine('desktop')];
      // Not at once: this provider's tokens of one person and second are the same to the letter.
      const both = [await logIn(laptop, 'olga'), await logIn(desktop, 'olga')];
      for (const { code, stderr } of both) assert.equal(code, 0, stderr);
      const [one, two] = both.map(({ stdout }) => JSON.parse(stdout) as { name: string; clientId: string; expires: string });
      assert.equal(one?.name, `oidc:people:${account('olga')}`);
      assert.equal(one?.clientId, two?.clientId);
      const hours = (new Date(one?.expires ?? '').getTime() - Date.now()) / 3_600_000;
      assert.ok(hours > 11.9 && hours <= 12, `${hours} hours`);
      assert.equal((await stat(laptop.file)).mode & 0o777, 0o600);
      // What the provider gave is not kept, here or there.
      assert.doesNotMatch(withoutThumbprints(await readFile(laptop.file, 'utf8')), tokenPattern);
      assert.doesNotMatch(withoutThumbprints(await login.logged(/"msg":"logged in"/)), tokenPattern);

      const prepared = await laptop.hpcs(prepare('people'));
      assert.equal(prepared.code, 0, prepared.stderr);
      assert.match(
        prepared.stderr,
        new RegExp(`identity: oidc:people:olga-${run} \\(client ${one?.clientId}\\), by a login, until 2`),
      );

      // Out on one machine, and only there.
      const { key } = JSON.parse(await readFile(laptop.file, 'utf8')) as { key: JWK };
      const prove = keyProver(key);
      await server.clientToken('vault', prove);
      assert.match((await laptop.hpcs(['logout'])).stdout, new RegExp(`logged out: oidc:people:olga-${run}`));
      await assert.rejects(server.clientToken('vault', prove), refused('hpcs-unauthenticated', /not enrolled/));
      await assert.rejects(stat(laptop.file), /ENOENT/);
      const still = JSON.parse(await readFile(desktop.file, 'utf8')) as { key: JWK };
      await server.clientToken('vault', keyProver(still.key));
    });

    it('are told when they deny, stop, are not taken, or their session is over', async () => {
      const where = machine('nobody');
      const interrupt = new AbortController();
      const [denied, unverified, stopped] = await Promise.all([
        logIn(where, 'mallory', 'deny'),
        logIn(where, 'unverified'),
        where.hpcs(['login'], { signal: interrupt.signal, onStderr: (soFar) => soFar.includes('or open') && interrupt.abort() }),
      ]);
      assert.equal(denied.code, 4);
      assert.match(denied.stdout, /"login-denied"/);
      assert.equal(unverified.code, 4);
      assert.match(unverified.stdout, /do not allow this token: email_verified is false/);
      assert.equal(stopped.code, 130, stopped.stderr);
      await assert.rejects(stat(where.file), /ENOENT/);
      assert.match((await where.hpcs(['logout'])).stdout, /nobody was logged in/);

      const late = machine('late');
      assert.equal((await logIn(late, 'otto')).code, 0);
      const session = JSON.parse(await readFile(late.file, 'utf8')) as { key: JWK; name: string; expires: string };
      const path = `kv/data/hpcs-server/keys/${await thumbprintOf(session.key)}`;
      const { data } = (await owner.ask('GET', path)).body as { data: { data: object } };
      await owner.ask('POST', path, { data: { ...data.data, expires: new Date(Date.now() - 1000).toISOString() } });
      await assert.rejects(
        server.clientToken('vault', keyProver(session.key)),
        refused('hpcs-unauthenticated', /the session of its key has ended: log in again/),
      );
      await writeDurably(late.file, JSON.stringify({ ...session, expires: '2026-01-01T00:00:00.000Z' }));
      const over = await late.hpcs(prepare('late'));
      assert.equal(over.code, 4);
      assert.match(over.stderr, /the session of oidc:people:otto-\w+ ended at 2026-01-01/);
      assert.match(over.stderr, /hpcs login/);
    });

    it('get no further with a token of another program at the same provider', async () => {
      const key = await newKey();
      const token = await people.tokenFor('another', account('olga'), key.thumbprint);
      await assert.rejects(show(token, key), refused('hpcs-unauthenticated', /for another audience/));
      assert.equal(await works(key), false);
    });
  });

  describe('CI jobs', () => {
    it('of GitHub log in with a token for their key alone, and are the same client in every run, whatever the repository is called', async () => {
      const runner = machine('runner', { ACTIONS_ID_TOKEN_REQUEST_URL: `${ci.origin}/runner/token?api-version=2`, ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'of-the-runner' }); // prettier-ignore
      const exit = await runner.hpcs(prepare('ci'));
      assert.equal(exit.code, 0, exit.stderr);
      const id = /identity: oidc:github:77\/1001 \(client (\w+)\), by the token of this CI job, until/.exec(exit.stderr)?.[1];
      assert.ok(id !== undefined, exit.stderr);
      const key = await newKey();
      const renamed = await github(key, { repository: 'other-org/new-name', sub: 'repo:other-org/new-name:ref:refs/heads/main' });
      assert.equal((await show(renamed, key)).clientId, id);
      assert.equal((await show(renamed, key)).clientId, id, 'an answer may be lost');
      assert.equal(await works(key), true);
    });

    it('of GitHub log in again, with a new token, before their session ends', async () => {
      const env = { ACTIONS_ID_TOKEN_REQUEST_URL: `${ci.origin}/runner/token`, ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'of-the-runner' };
      const options = { signal: new AbortController().signal, progress: () => undefined, env };
      await using identity = await openIdentity(
        { ...login.config, identity: { ...login.config.identity, client: 'ci' } },
        options,
      );
      const asked = (): number => ci.asked.filter((path) => path === '/runner/token').length;
      const before = asked();
      await identity.jwt('vault');
      assert.equal(asked(), before);
      const { now } = Date;
      Date.now = () => now() + 3_590_000;
      try {
        await Promise.all([identity.jwt('vault'), identity.jwt('hpcs-server')]);
      } finally {
        Date.now = now;
      }
      assert.ok(asked() > before);
    });

    it('of GitLab log in once for all commands of a job; a second key with the same token ends what the first began', async () => {
      const token = await gitlab();
      const job = machine('gitlab-job', { HPCS_ID_TOKEN: token });
      const exit = await job.hpcs(prepare('gitlab'));
      assert.match(exit.stderr, /identity: oidc:gitlab:42 \(client \w+\), by the token of this CI job/);
      const again = await job.hpcs(prepare('gitlab'));
      assert.equal(again.code, 0, again.stderr);
      const thief = await newKey();
      await assert.rejects(show(token, thief), refused('hpcs-forbidden', /used with another key already/));
      assert.equal(await works(thief), false);
      await login.logged(/"msg":"login token came with a second key"/);
      const robbed = await job.hpcs(prepare('gitlab'));
      assert.equal(robbed.code, 4);
      assert.match(robbed.stderr, /its key is not enrolled here, or no longer/);
    });

    it('of a project are one client when many log in at the same time', async () => {
      const keys = await Promise.all([1, 2, 3, 4].map(newKey));
      const made = await Promise.all(
        keys.map(async (key) => show(await gitlab({ project_id: '43', user_id: key.thumbprint }), key)),
      );
      assert.equal(new Set(made.map(({ clientId }) => clientId)).size, 1);
      assert.equal(made[0]?.name, 'oidc:gitlab:43');
      // An administrator names it as it is shown, and no token brings it back.
      const administer = (words: string): Promise<Ran> =>
        site.run(`node /app/bin/dev.js server ${words} --config /etc/hpcs/hpcs-server.conf`, '', login.container.id);
      assert.match((await administer('clients')).stdout, new RegExp(`${made[0]?.clientId} +oidc:gitlab:43 `));
      const removed = await administer('remove oidc:gitlab:43 --yes');
      assert.equal(removed.code, 0, removed.stderr);
      for (const key of keys) assert.equal(await works(key), false);
      const fresh = await newKey();
      await assert.rejects(show(await gitlab({ project_id: '43' }), fresh), refused('hpcs-forbidden', /was removed/));
    });
  });

  describe('grants', () => {
    it('name people and projects as their issuer does, and groups that the configuration maps', async () => {
      const [anna, olga, pia, project] = await Promise.all([newKey(), newKey(), newKey(), newKey()]);
      await server.enrol(new Secret(await enrolmentToken(site, `anna-${run}`)), anna.prove);
      const as = async (name: string, key: Key): Promise<string> =>
        (await show(await people.tokenFor('hpcs', account(name), key.thumbprint), key)).clientId;
      const [olgasId] = [await as('olga', olga), await as('pia', pia), await show(await gitlab(), project)];
      const permit = async (clients: string[], groups: string[] = []): Promise<string> =>
        (await server.permit({ secret: secretName('x'), clients, groups }, anna.prove)).secretPath;
      const register = (path: string, key: Key): Promise<string> => {
        const artefacts = [{ role: 'data' as const, secret_path: path }];
        return server.registerJob({ job: '1', ticket: ticketHash(makeTicket()), artefacts }, key.prove);
      };
      const name = `oidc:people:${account('olga')}`;
      assert.deepEqual(await server.resolve([name, account('olga'), 'oidc:people:nobody'], anna.prove), {
        [name]: olgasId,
        [account('olga')]: null,
        'oidc:people:nobody': null,
      });
      const toOlga = await permit([name]);
      await register(toOlga, olga);
      for (const other of [pia, project]) await assert.rejects(register(toOlga, other), refused('hpcs-forbidden', /not granted/));
      const toProject = await permit(['oidc:gitlab:42']);
      await register(toProject, project);
      await assert.rejects(register(toProject, olga), refused('hpcs-forbidden'));
      // Both are researchers; what else the provider calls groups means nothing here.
      const toTeam = await permit([], [`team-${run}`]);
      await register(toTeam, olga);
      await register(toTeam, pia);
      await assert.rejects(
        register(await permit([], ['researchers', `staff-${account('olga')}`]), olga),
        refused('hpcs-forbidden'),
      );
      for (const nobody of ['oidc:people:nobody', 'oidc:nowhere:42', 'oidc:gitlab:77', account('olga')])
        await assert.rejects(permit([nobody]), refused('hpcs-bad-request', /nobody is enrolled here/), nobody);
      for (const none of ['oidc:', 'oidc:people:', 'oidc:People:x', 'oidc:people:a b'])
        await assert.rejects(permit([none]), refused('hpcs-bad-request', /clients: expected/), none);
    });
  });

  describe('tokens', () => {
    const notAllowed: Record<string, (key: Key) => Promise<string>> = {
      'of a pull request': (key: Key) =>
        github(key, {
          event_name: 'pull_request',
          ref: 'refs/pull/7/merge',
          head_ref: 'evil',
          base_ref: 'main',
          sub: 'repo:octo-org/octo-repo:pull_request',
        }),
      'of a pull request that says it is a push': (key: Key) => github(key, { ref: 'refs/pull/7/merge' }),
      'of a merge queue': (key: Key) =>
        github(key, { event_name: 'merge_group', ref: 'refs/heads/gh-readonly-queue/main/pr-7-abc' }),
      'of a fork': (key: Key) => github(key, { repository_id: '2002', repository_owner_id: '88', repository: 'evil/octo-repo' }),
      'of another repository of the owner': (key: Key) => github(key, { repository_id: '1002' }),
      'of a repository that took the name over': (key: Key) => github(key, { repository_id: '3003' }),
      'of the repository under another owner': (key: Key) => github(key, { repository_owner_id: '88' }),
      'of a branch that anybody may push to': (key: Key) => github(key, { ref: 'refs/heads/topic', ref_protected: 'false' }),
      'without a repository id': (key: Key) => github(key, { repository_id: undefined }),
      'of a merge request': () => gitlab({ pipeline_source: 'merge_request_event', ref_path: 'refs/merge-requests/1/head' }),
      'of another project': () => gitlab({ project_id: '44' }),
      'of another branch': () => gitlab({ ref_path: 'refs/heads/main2' }),
    };
    it('of proposed changes, forks, other repositories, projects and branches are refused by the rules', async () => {
      for (const [what, make] of Object.entries(notAllowed))
        await nothingCameOf(what, make, 'hpcs-forbidden', /do not allow this token/);
    });

    const seconds = Math.floor(Date.now() / 1000);
    const unsigned = (header: object, claims: object): string =>
      [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
    const claimsOf = (token: string): object =>
      JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as object;
    const invalid: Record<string, [(key: Key) => Promise<string>, RegExp]> = {
      'for the audience alone, not for the key': [(key) => github(key, { aud: 'hpcs' }), /another audience/],
      'for the key of somebody else': [async () => github(await newKey()), /another audience/],
      'for another audience': [() => gitlab({ aud: 'sts.amazonaws.com' }), /another audience/],
      'for two audiences': [() => gitlab({ aud: ['hpcs', 'another'] }), /more than one audience/],
      'asked for with another nonce': [
        () => ci.sign('bound', { sub: 'x', aud: 'hpcs', nonce: 'other' }),
        /not asked for by the holder/,
      ],
      'without the nonce': [() => ci.sign('bound', { sub: 'x', aud: 'hpcs' }), /not asked for by the holder/],
      'that have expired': [() => gitlab({ iat: seconds - 7200, nbf: seconds - 7200, exp: seconds - 3600 }), /has expired/],
      'that are not valid yet': [() => gitlab({ nbf: seconds + 3600 }), /claim nbf/],
      'made in the future': [() => gitlab({ iat: seconds + 3600, exp: seconds + 7200 }), /claim iat/],
      'without an end': [() => gitlab({ exp: undefined }), /claim exp/],
      'of an issuer that is not trusted': [() => ci.sign('foreign', gitlabClaims({ aud: 'hpcs' })), /issuer is not trusted/],
      'of one trusted issuer in the name of another': [
        () => ci.sign('bound', gitlabClaims({ iss: ci.url('gitlab'), aud: 'hpcs' })),
        /not signed by the issuer gitlab/,
      ],
      'of the issuer with a final slash': [() => gitlab({ iss: `${ci.url('gitlab')}/` }), /issuer is not trusted/],
      'of a foreign key with the right key id': [
        async () => ci.sign('gitlab', gitlabClaims({ aud: 'hpcs' }), { key: ci.key('foreign').privateKey }),
        /signature is wrong/,
      ],
      'that bring their key, or say where it lies': [
        async () => {
          const evil = ci.key('foreign');
          const header = {
            jwk: evil.publicJwk,
            jku: `${ci.url('foreign')}/keys`,
            x5u: `${ci.url('foreign')}/keys`,
            kid: evil.kid,
          };
          return ci.sign('gitlab', gitlabClaims({ aud: 'hpcs' }), { key: evil.privateKey, header });
        },
        /not signed by the issuer/,
      ],
      'with a critical header that nobody knows': [
        async () =>
          ci.sign('gitlab', gitlabClaims({ aud: 'hpcs' }), { header: { crit: ['evil'], evil: true } }).catch(async () => {
            const [, body] = (await gitlab()).split('.');
            return `${unsigned({ alg: 'RS256', kid: 'gitlab-1', crit: ['evil'], evil: true }, {}).split('.')[0]}.${body}.AAAA`;
          }),
        /malformed/,
      ],
      'that are access tokens': [
        async () => ci.sign('gitlab', gitlabClaims({ aud: 'hpcs' }), { header: { typ: 'at+jwt' } }),
        /no ID token/,
      ],
      'that say in a claim that they are access tokens': [
        async () => ci.sign('gitlab', { ...gitlabClaims({ aud: 'hpcs' }), typ: 'Bearer' }),
        /no ID token/,
      ],
      'without a signature': [
        async () => `${(await gitlab()).split('.').slice(0, 2).join('.')}.`,
        /signature is wrong|malformed/,
      ],
      'with alg none': [async () => `${unsigned({ alg: 'none' }, claimsOf(await gitlab()))}.`, /algorithm is not allowed/],
      'keyed with the public key (HS256)': [
        async () => {
          const spki = await exportSPKI((await importJWK({ ...ci.key('gitlab').publicJwk, ext: true }, 'RS256')) as never);
          const content = unsigned({ alg: 'HS256', kid: 'gitlab-1' }, claimsOf(await gitlab()));
          return `${content}.${createHmac('sha256', spki).update(content).digest('base64url')}`;
        },
        /algorithm is not allowed/,
      ],
      'altered after they were signed': [
        async () => {
          const [header, , signature] = (await gitlab()).split('.');
          const body = Buffer.from(JSON.stringify(claimsOf(await gitlab({ user_login: 'root' })))).toString('base64url');
          return `${header}.${body}.${signature}`;
        },
        /signature is wrong/,
      ],
      'that are none': [async () => 'x.y.z', /malformed/],
    };
    it('that are forged, unsigned, too old, for others or of others are not valid', async () => {
      for (const [what, [make, reason]] of Object.entries(invalid))
        await nothingCameOf(what, make, 'hpcs-unauthenticated', reason);
    });

    it('are of no use without a proof of a key, nor with one of another body', async () => {
      const key = await newKey();
      const token = await github(key);
      const url = `${login.config['hpcs-server'].url}/api/client/login`;
      const ca = await readCa(login.config['hpcs-server']['ca-file']);
      await using http = new HttpClient({ name: 'HPCS server', url: login.config['hpcs-server'].url, ca });
      const body = { id_token: token };
      for (const headers of [{}, { authorization: `Bearer ${token}` }])
        assert.equal((await http.json('POST', '/api/client/login', { body, headers })).status, 401);
      const other = await key.prove({ method: 'POST', url, body: '{}' });
      assert.equal((await http.json('POST', '/api/client/login', { body, headers: other })).status, 401);
      const mine = await key.prove({ method: 'POST', url, body: JSON.stringify(body) });
      assert.equal((await http.json('POST', '/api/client/login', { body, headers: mine })).status, 200);
      assert.equal((await http.json('POST', '/api/client/login', { body, headers: mine })).status, 401, 'a proof counts once');
      assert.equal((await http.json('POST', '/api/client/token', { body: { audience: 'vault' }, headers: { authorization: `Bearer ${token}` } })).status, 401); // prettier-ignore
    });

    it('of a session that was logged out, or whose key was revoked, begin no other', async () => {
      const ended = refused('hpcs-key-ended', /was logged out, or revoked/);
      const revoke = (key: Key): Promise<{ code: number; stderr: string }> =>
        site.run(`node /app/bin/dev.js server revoke-key --config /etc/hpcs/hpcs-server.conf -- ${key.thumbprint}`, '', containerOf('hpcsServer')); // prettier-ignore
      for (const end of [(key: Key) => server.logout(key.prove), revoke]) {
        const key = await newKey();
        const token = await gitlab();
        await show(token, key);
        await end(key);
        await assert.rejects(show(token, key), ended);
        const other = await newKey();
        await assert.rejects(show(token, other), refused('hpcs-forbidden', /used with another key already/));
        assert.deepEqual([await works(key), await works(other)], [false, false]);
      }
    });

    it('of an issuer that does not answer are met with 503 and the reason, until it does', async () => {
      const key = await newKey();
      const token = await down.sign('down', { sub: 'x', aud: 'hpcs' });
      await assert.rejects(
        show(token, key),
        refused('hpcs-unavailable', /\(503\).*the issuer down cannot be asked for its keys at present: cannot reach/),
      );
      await login.logged(/"code":"issuer-unavailable"/);
      // Others log in meanwhile.
      const other = await newKey();
      await show(await github(other), other);
      await down.again();
      for (let attempt = 0; ; attempt += 1) {
        try {
          await show(token, key);
          break;
        } catch (error) {
          assert.ok(attempt < 50 && refused('hpcs-unavailable')(error as never));
          await sleep(200);
        }
      }
      assert.equal(await works(key), true);
    });

    it('are taken when their issuer has a new key, and no place that a token names is ever asked', async () => {
      const asked = ci.asked.filter((path) => path.startsWith('/foreign')).length;
      assert.equal(asked, 0);
      const fresh = await signingKey('gitlab-2');
      const before = await ci.sign('gitlab', gitlabClaims({ aud: 'hpcs' }), {
        key: fresh.privateKey,
        header: { kid: fresh.kid },
      });
      const key = await newKey();
      await assert.rejects(show(before, key), refused('hpcs-unauthenticated', /not signed/));
      ci.rotate('gitlab', fresh);
      for (let attempt = 0; ; attempt += 1) {
        try {
          await show(before, key);
          break;
        } catch (error) {
          assert.ok(attempt < 50 && refused('hpcs-unauthenticated', /not signed/)(error as never));
          await sleep(200);
        }
      }
    });

    /** A refusal after which neither vault nor server know of anybody new, and the log of nothing that could be shown again. */
    async function nothingCameOf(what: string, make: (key: Key) => Promise<string>, code: string, reason: RegExp): Promise<void> {
      const known = async (): Promise<unknown> =>
        Promise.all(['clients', 'identities', 'sessions'].map((kind) => owner.list(`kv/metadata/hpcs-server/${kind}`)));
      const before = await known();
      const key = await newKey();
      const token = await make(key);
      await assert.rejects(show(token, key), (error: HpcsError) => {
        assert.equal(error.code, code, `${what}: ${error.message}`);
        assert.match(error.message, reason, what);
        return true;
      });
      assert.equal(await works(key), false, what);
      assert.deepEqual(await known(), before, what);
      assert.ok(!(await owner.list('kv/metadata/hpcs-server/keys')).includes(key.thumbprint), what);
      const digest = createHash('sha256').update(token.slice(0, token.lastIndexOf('.'))).digest('hex'); // prettier-ignore
      for (const hour of await owner.list('kv/metadata/hpcs-server/logins'))
        assert.ok(!(await owner.list(`kv/metadata/hpcs-server/logins/${hour}`)).includes(digest), what);
      const log = await login.logged(reason);
      const [, body = ''] = token.split('.');
      assert.ok(body.length < 20 || !log.includes(body), `${what}: the log holds the token`);
    }
  });
});

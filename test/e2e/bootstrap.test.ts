import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadConfig } from '../../src/config.ts';
import type { CliExit } from '../support/cli.ts';
import { administratorToken, VaultOwner } from '../support/owner.ts';
import { Site } from '../support/site.ts';

describe('hpcs server bootstrap, on a real vault', function () {
  this.timeout(120_000);
  const resources = new AsyncDisposableStack();
  const namespace = `bootstrap-${randomBytes(4).toString('hex')}`;
  let site: Site;
  let root: VaultOwner;
  let configuration: string;
  let token: string;

  before(async function () {
    this.timeout(1_800_000);
    site = resources.use(await Site.open({ legacy: true }));
    root = resources.use(await VaultOwner.open(site));
    resources.defer(async () => void (await root.ask('DELETE', `sys/namespaces/${namespace}`)));
    token = (await administratorToken(site)).reveal();
    const { vault } = await loadConfig(site.configuration);
    configuration = join(site.temporary, 'hpcs-server.conf');
    await writeFile(
      configuration,
      `[spire-server]\naddress=127.0.0.1\nport=1\ntrust-domain=sandbox.hpcs\n
[spire-agent]\nspire-agent-socket=${site.temporary}/no-agent.sock\n
[vault]\nurl=${vault.url}\nca-file=${vault['ca-file']}\nserver-role=hpcs-server\nnamespace=${namespace}\n
[listen]\nhost=127.0.0.1\n
[bootstrap]\noidc-url=https://hpcs-sandbox-oidc:8443\noidc-ca-file=${vault['ca-file']}\n`,
    );
  });

  after(() => resources.disposeAsync());

  const bootstrap = (args: readonly string[] = [], input = token): Promise<CliExit> =>
    site.hpcs(['server', 'bootstrap', '--config', configuration, ...args], { input });
  /** First words of the lines, by how many there are of each. */
  const counts = ({ stdout }: CliExit): Record<string, number> => {
    const found: Record<string, number> = {};
    for (const line of stdout.trim().split('\n')) {
      const [word = ''] = line.split('  ');
      found[word] = (found[word] ?? 0) + 1;
    }
    return found;
  };
  const inside = (path: string): string => `${namespace}/${path}`;

  it('only looks with --check, and says what is missing', async () => {
    const exit = await bootstrap(['--check']);
    assert.equal(exit.code, 4);
    assert.match(exit.stdout, new RegExp(`^MISSING +the namespace ${namespace}: it was not there$`, 'm'));
    assert.match(exit.stdout, /^ok +an audit device/m);
    assert.equal((await root.ask('GET', `sys/namespaces/${namespace}`)).status, 404);
  });

  it('makes all of it, and changes nothing the second time', async () => {
    const first = await bootstrap();
    assert.equal(first.code, 0, first.stdout + first.stderr);
    assert.deepEqual(counts(first), { ok: 1, made: 6, 'not seen': 2 });
    const second = await bootstrap();
    assert.deepEqual(counts(second), { ok: 7, 'not seen': 2 });
    assert.equal((await bootstrap(['--check'])).code, 0);
    assert.ok(!JSON.stringify([first, second]).includes(token), 'the token is shown nowhere');
  });

  it('completes what was half done, and corrects what was changed', async () => {
    await root.ask('DELETE', inside('auth/jwt/role/hpcs-server'));
    await root.ask('POST', inside('sys/policies/acl/hpcs-server'), { policy: 'path "*" { capabilities = ["sudo"] }' });
    const exit = await bootstrap();
    assert.deepEqual(counts(exit), { ok: 5, made: 2, 'not seen': 2 });
    assert.match(exit.stdout, /^made +the policy hpcs-server: it was another$/m);
    assert.deepEqual(counts(await bootstrap()), { ok: 7, 'not seen': 2 });
  });

  it('names what it must not change: other mounts, other issuers', async () => {
    await root.ask('POST', inside('auth/jwt/config'), { jwt_validation_pubkeys: [], oidc_discovery_url: '', jwks_url: '', bound_issuer: 'x' }); // prettier-ignore
    await root.ask('POST', inside('auth/jwt/config'), { jwt_supported_algs: [], jwt_validation_pubkeys: [publicKey], bound_issuer: 'https://somebody.example' }); // prettier-ignore
    await root.ask('DELETE', inside('sys/mounts/kv'));
    await root.ask('POST', inside('sys/mounts/kv'), { type: 'kv', options: { version: '1' } });
    const exit = await bootstrap();
    assert.equal(exit.code, 4);
    assert.match(exit.stdout, /^WRONG +KV version 2 at kv: something else is mounted there: kv version 1$/m);
    assert.match(
      exit.stdout,
      /^WRONG +its verification .*: it verifies those of https:\/\/somebody\.example: give the HPCS server a namespace/m,
    );
    assert.match(exit.stderr, /not as it has to be: KV version 2 at kv; its verification of tokens/);
  });

  it('says so when the token is not that of an administrator, or none', async () => {
    const stranger = await bootstrap([], 'hvs.somebodyelse');
    assert.equal(stranger.code, 4);
    assert.match(stranger.stdout, /^WRONG +the namespace .*denied/m);
    assert.equal((await bootstrap([], 'two words')).code, 2);
  });
});

const publicKey = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----
`;

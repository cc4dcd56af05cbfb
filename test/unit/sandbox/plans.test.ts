import assert from 'node:assert/strict';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { loadConfig } from '../../../src/config.ts';
import { writeConfigurations } from '../../../src/sandbox/client-files.ts';
import { packageRoot } from '../../../src/package-root.ts';
import { modulesOf } from '../../../src/sandbox/modules.ts';
import { engineName, parts } from '../../../src/sandbox/names.ts';
import { sitePlans } from '../../../src/sandbox/site.ts';
import { oidcPlan, spireAgentPlan, spireServerPlan } from '../../../src/sandbox/spire.ts';
import { hpcsServerPlan } from '../../../src/sandbox/hpcs-server.ts';
import { openbaoPlan } from '../../../src/sandbox/openbao.ts';
import { Secret } from '../../../src/secret.ts';
import { parseServerConfig } from '../../../src/server/config.ts';

const certificate = { certificate: 'CERTIFICATE', key: new Secret('KEY-OF-A-SERVER') };

describe('plans of the sandbox', () => {
  describe('the site', () => {
    for (const [nodes, roles, names] of [
      [0, ['all'], 'nid000001'],
      [1, ['login', 'node nid000001'], 'nid000001'],
      [3, ['login', 'node nid000001', 'node nid000002', 'node nid000003'], 'nid[000001-000003]'],
    ] as const) {
      it(`with ${nodes} compute nodes of their own`, () => {
        const plans = sitePlans('site', nodes, 'ssh-ed25519 AAAA');
        assert.deepEqual(
          plans.map(({ command }) => command?.join(' ')),
          roles,
        );
        assert.equal(plans[0]?.environment?.['SITE_NODES'], names);
        assert.equal(plans[0]?.environment?.['SITE_PUBLIC_KEY'], 'ssh-ed25519 AAAA');
        assert.ok(plans.every(({ host }) => host?.Privileged === undefined));
      });
    }
  });

  it('hand secrets in as private files only', () => {
    const plans = [
      openbaoPlan('bao', certificate),
      oidcPlan('oidc', certificate),
      hpcsServerPlan('server', 'CA', certificate),
      spireAgentPlan('agent', 'A-JOIN-TOKEN', 'BUNDLE'),
      spireServerPlan('server', { rego: 'package spire', data: '{}' }),
    ];
    let found = 0;
    for (const { files = [], ...rest } of plans) {
      assert.doesNotMatch(JSON.stringify(rest), /KEY-OF-A-SERVER|A-JOIN-TOKEN/);
      for (const { content = '', mode = 0o644 } of files) {
        if (!/KEY-OF-A-SERVER|A-JOIN-TOKEN/.test(Buffer.from(content).toString())) continue;
        found += 1;
        assert.equal(mode & 0o077, 0);
      }
    }
    assert.equal(found, 4);
  });

  it('give the HPCS server a configuration that it takes', () => {
    const { files = [] } = hpcsServerPlan('server', 'CA', certificate);
    const content = String(files.find(({ name }) => name.endsWith('.conf'))?.content);
    const config = parseServerConfig(content, 'hpcs-server.conf');
    assert.equal(config.vault.url, 'https://hpcs-sandbox-openbao:8200');
    assert.equal(config.tls?.['key-file'], '/etc/hpcs/tls.key');
  });

  it('call parts of another sandbox by its name', () => {
    assert.equal(engineName('hpcs-sandbox', parts.site), 'hpcs-sandbox-site');
    assert.equal(engineName('other', parts.site), 'other-site');
  });
});

describe('configurations of the sandbox', () => {
  it('are whole, for clients here and in containers', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'hpcs-conf-'));
    try {
      await writeConfigurations(directory, { spireServer: 1, oidc: 2, openbao: 3, hpcsServer: 4, site: 5 });
      const here = await loadConfig(join(directory, 'hpcs-client.conf'));
      assert.equal(here.supercomputer.port, 5);
      assert.equal(here.vault.url, 'https://127.0.0.1:3');
      assert.equal(here['spire-server']['address-from-node'], 'hpcs-sandbox-spire-server');
      assert.deepEqual(here.supercomputer['identity-file'], [join(directory, 'id_ed25519')]);
      const compose = await loadConfig(join(directory, 'hpcs-client.compose.conf'));
      assert.equal(compose['hpcs-server'].url, 'https://hpcs-sandbox-hpcs-server:10080');
      assert.equal(compose['hpcs-server']['ca-file'], '/tmp/sandbox/ca.pem');
      assert.equal((await stat(join(directory, 'hpcs-client.conf'))).mode & 0o777, 0o600);
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

describe('modules of a program', () => {
  it('are those it imports, and theirs', async () => {
    const found = (await modulesOf('src/sandbox/client-files.ts')).map((path) => relative(packageRoot(), path));
    assert.ok(found.includes('src/sandbox/names.ts'));
    assert.ok(found.includes('src/errors.ts'), 'through others');
    assert.ok(!found.includes('src/sandbox/sandbox.ts'));
  });
});

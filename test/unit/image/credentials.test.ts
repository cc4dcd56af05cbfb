import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { HpcsError } from '../../../src/errors.ts';
import { askHelper, authConfig, findCredentials, registryOf } from '../../../src/image/credentials.ts';
import { readDockerConfig, type DockerConfig } from '../../../src/image/docker-config.ts';

const hub = 'https://index.docker.io/v1/';
const none: DockerConfig = { auths: {}, credHelpers: {}, proxies: {} };

describe('registry credentials', () => {
  for (const [repository, registry] of [
    ['debian', hub],
    ['talinx/jp2a', hub],
    ['docker.io/library/debian', hub],
    ['ghcr.io/owner/name', 'ghcr.io'],
    ['localhost/name', 'localhost'],
    ['localhost:5000/name', 'localhost:5000'],
    ['registry.example.org:444/a/b/c', 'registry.example.org:444'],
  ] as const) {
    it(`of ${repository} are those of ${registry}`, () => assert.equal(registryOf(repository), registry));
  }

  it('come from the file: user and password in one word, or a token', async () => {
    const auth = Buffer.from('alice:pass:word').toString('base64');
    const config = {
      ...none,
      auths: {
        'https://ghcr.io/v2/': { auth },
        'quay.io': { auth: Buffer.from('bob:').toString('base64'), identitytoken: 'token' },
      },
    };
    const alice = await findCredentials('ghcr.io', config);
    assert.ok(alice);
    assert.deepEqual(authConfig(alice), { serveraddress: 'ghcr.io', username: 'alice', password: 'pass:word' });
    assert.ok(!inspect(alice, { depth: 9 }).includes('pass:word') && !JSON.stringify(alice).includes('pass:word'));
    const bob = await findCredentials('quay.io', config);
    assert.ok(bob);
    assert.deepEqual(authConfig(bob), { serveraddress: 'quay.io', username: 'bob', identitytoken: 'token' });
    assert.equal(await findCredentials('elsewhere.example', config), undefined);
  });

  it('come from the registry’s own helper before the common one', async () => {
    const asked: string[] = [];
    const ask = (helper: string, registry: string): Promise<string> => {
      asked.push(`${helper} ${registry}`);
      return Promise.resolve(JSON.stringify({ ServerURL: registry, Username: '<token>', Secret: 'abc' }));
    };
    const config = { ...none, credsStore: 'desktop', credHelpers: { 'ghcr.io': 'github' } };
    const own = await findCredentials('ghcr.io', config, { ask });
    await findCredentials(hub, config, { ask });
    assert.deepEqual(asked, ['github ghcr.io', `desktop ${hub}`]);
    assert.equal(own?.kind, 'identitytoken');
  });

  describe('with a helper program', () => {
    let directory = '';
    let path: string | undefined;
    beforeEach(async () => {
      directory = await mkdtemp(join(tmpdir(), 'hpcs-helper-'));
      path = process.env['PATH'];
      process.env['PATH'] = `${directory}:${path}`;
    });
    afterEach(async () => {
      process.env['PATH'] = path;
      await rm(directory, { recursive: true });
    });
    const helper = async (script: string): Promise<void> => {
      const file = join(directory, 'docker-credential-test');
      await writeFile(file, `#!/bin/sh\n${script}\n`);
      await chmod(file, 0o755);
    };

    it('the registry is its input and JSON its output', async () => {
      await helper(`[ "$1" = get ] && printf '{"ServerURL":"%s","Username":"carol","Secret":"s3"}' "$(cat)"`);
      const found = await findCredentials('ghcr.io', { ...none, credsStore: 'test' });
      assert.ok(found);
      assert.deepEqual(authConfig(found), { serveraddress: 'ghcr.io', username: 'carol', password: 's3' });
    });

    it('one that knows nothing is no error', async () => {
      await helper(`echo 'credentials not found in native keychain'; exit 1`);
      assert.equal(await findCredentials('ghcr.io', { ...none, credsStore: 'test' }), undefined);
    });

    it('one that fails is named, with its own words', async () => {
      await helper(`echo 'keychain is locked'; exit 1`);
      await assert.rejects(askHelper('test', 'ghcr.io'), {
        code: 'credential-helper',
        message: /credential-test .*keychain is locked/,
      });
    });

    it('an answer that is not understood is not shown', async () => {
      await helper(`echo '{"Username":"x","Secret":["s3cr3t"]}'`);
      await assert.rejects(findCredentials('ghcr.io', { ...none, credsStore: 'test' }), (error) => {
        assert.ok(error instanceof HpcsError);
        assert.ok(!inspect(error, { depth: 9 }).includes('s3cr3t'));
        return true;
      });
    });

    it('one that is not installed is named', async () => {
      await assert.rejects(askHelper('absent', 'ghcr.io'), { code: 'credential-helper', message: /not installed/ });
    });
  });

  it('a damaged config.json is refused without quoting it', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'hpcs-docker-'));
    try {
      assert.deepEqual(await readDockerConfig({ DOCKER_CONFIG: directory }), none);
      await writeFile(join(directory, 'config.json'), '{"auths":{"x":{"auth":"c2VjcmV0"');
      await assert.rejects(readDockerConfig({ DOCKER_CONFIG: directory }), (error) => {
        assert.ok(error instanceof HpcsError && error.exitCode === 3);
        assert.ok(!inspect(error, { depth: 9 }).includes('c2VjcmV0'));
        return true;
      });
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

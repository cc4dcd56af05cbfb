import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { HpcsError } from '../../../src/errors.ts';
import { authConfig, findCredentials, registryOf } from '../../../src/image/credentials.ts';
import { readDockerConfig, type DockerConfig } from '../../../src/image/docker-config.ts';
import { writePrograms } from '../../support/programs.ts';

const hub = 'https://index.docker.io/v1/';
const none: DockerConfig = { auths: {}, credHelpers: {} };

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
    const helper = (script: string, name = 'test'): Promise<void> =>
      writePrograms(directory, { [`docker-credential-${name}`]: script });

    it('the registry is its input and JSON its output', async () => {
      await helper(`[ "$1" = get ] && printf '{"ServerURL":"%s","Username":"carol","Secret":"s3"}' "$(cat)"`);
      const found = await findCredentials('ghcr.io', { ...none, credsStore: 'test' });
      assert.ok(found);
      assert.deepEqual(authConfig(found), { serveraddress: 'ghcr.io', username: 'carol', password: 's3' });
    });

    it('the registry’s own is asked before the common one', async () => {
      for (const name of ['github', 'desktop'])
        await helper(`printf '{"ServerURL":"","Username":"<token>","Secret":"${name} for %s"}' "$(cat)"`, name);
      const config = { ...none, credsStore: 'desktop', credHelpers: { 'ghcr.io': 'github' } };
      const found = [await findCredentials('ghcr.io', config), await findCredentials(hub, config)];
      assert.deepEqual(
        found.map((credentials) => credentials && authConfig(credentials)),
        [
          { serveraddress: 'ghcr.io', identitytoken: 'github for ghcr.io' },
          { serveraddress: hub, identitytoken: `desktop for ${hub}` },
        ],
      );
    });

    it('one that knows nothing is no error', async () => {
      await helper(`echo 'credentials not found in native keychain'; exit 1`);
      assert.equal(await findCredentials('ghcr.io', { ...none, credsStore: 'test' }), undefined);
    });

    it('one that fails is named, with its own words', async () => {
      await helper(`echo 'keychain is locked'; exit 1`);
      await assert.rejects(findCredentials('ghcr.io', { ...none, credsStore: 'test' }), {
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
      await assert.rejects(findCredentials('ghcr.io', { ...none, credsStore: 'absent' }), {
        code: 'credential-helper',
        message: /not installed/,
      });
    });
  });

  describe('in config.json', () => {
    let directory = '';
    beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'hpcs-docker-'))));
    afterEach(() => rm(directory, { recursive: true }));
    const write = (content: string): Promise<void> => writeFile(join(directory, 'config.json'), content);
    const read = (): Promise<DockerConfig> => readDockerConfig({ DOCKER_CONFIG: directory });

    it('are none where there is no such file', async () => assert.deepEqual(await read(), none));

    it('are read beside settings of which nothing is used here, of whatever form', async () => {
      await write('{"auths":{"x":{"auth":"YTpi"}},"proxies":{"default":{"httpProxy":null},"tcp://h:2376":"none"},"psFormat":1}');
      assert.deepEqual(await read(), { ...none, auths: { x: { auth: 'YTpi' } } });
    });

    it('are not quoted where it is damaged', async () => {
      await write('{"auths":{"x":{"auth":"c2VjcmV0"');
      await assert.rejects(read(), (error) => {
        assert.ok(error instanceof HpcsError && error.exitCode === 3);
        assert.ok(!inspect(error, { depth: 9 }).includes('c2VjcmV0'));
        return true;
      });
    });
  });
});

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HpcsError } from '../../../src/errors.ts';
import { connectDocker } from '../../../src/image/docker.ts';
import { findEndpoint, parseEndpoint } from '../../../src/image/endpoint.ts';

describe('the address of a Docker engine', () => {
  let home = '';
  beforeEach(async () => (home = await mkdtemp(join(tmpdir(), 'hpcs-docker-'))));
  afterEach(() => rm(home, { recursive: true }));

  for (const [address, expected] of [
    ['/run/docker.sock', { kind: 'unix', path: '/run/docker.sock' }],
    ['unix:///var/run/docker.sock', { kind: 'unix', path: '/var/run/docker.sock' }],
    ['tcp://builder:2375', { kind: 'tcp', host: 'builder', port: 2375, tls: undefined }],
    ['builder:1234', { kind: 'tcp', host: 'builder', port: 1234, tls: undefined }],
    ['tcp://[::1]:2375', { kind: 'tcp', host: '::1', port: 2375, tls: undefined }],
    ['ssh://me@builder:2222', { kind: 'ssh', host: 'builder', port: 2222, user: 'me' }],
    ['ssh://builder', { kind: 'ssh', host: 'builder', port: undefined, user: undefined }],
  ] as const) {
    it(`reads ${address}`, () => assert.deepEqual(parseEndpoint(address), expected));
  }

  it('takes port 2376 and https for TLS', () => {
    for (const address of ['tcp://builder:2376', 'https://builder']) {
      const endpoint = parseEndpoint(address);
      assert.ok(endpoint.kind === 'tcp' && endpoint.port === 2376 && endpoint.tls?.verify === true, address);
    }
  });

  for (const address of [
    'npipe:////./pipe/docker_engine',
    'unix://',
    'tcp://host:2375/path',
    'ssh://-oProxyCommand=x',
    'http://',
    'a b',
  ]) {
    it(`refuses ${address}`, () => assert.throws(() => parseEndpoint(address), { code: 'docker-address', kind: 'usage' }));
  }

  it('refuses a password and does not repeat it', () => {
    assert.throws(
      () => parseEndpoint('tcp://me:hunter2@builder:2375'),
      (error) => error instanceof HpcsError && !error.message.includes('hunter2') && error.code === 'docker-address',
    );
  });

  it('asks the flag, DOCKER_HOST, the context and the default, in this order', async () => {
    const env: NodeJS.ProcessEnv = { HOME: home, DOCKER_CONFIG: home };
    assert.deepEqual(await findEndpoint(undefined, env), { kind: 'unix', path: '/var/run/docker.sock' });
    const meta = join(home, 'contexts', 'meta', createHash('sha256').update('far').digest('hex'));
    await mkdir(meta, { recursive: true });
    await writeFile(join(meta, 'meta.json'), JSON.stringify({ Name: 'far', Endpoints: { docker: { Host: 'ssh://far' } } }));
    await writeFile(join(home, 'config.json'), JSON.stringify({ currentContext: 'far' }));
    assert.equal((await findEndpoint(undefined, env)).kind, 'ssh');
    env['DOCKER_HOST'] = 'unix:///from-env';
    assert.deepEqual(await findEndpoint(undefined, env), { kind: 'unix', path: '/from-env' });
    assert.deepEqual(await findEndpoint('/from-flag', env), { kind: 'unix', path: '/from-flag' });
  });

  it('names a context that does not exist', async () => {
    const env = { HOME: home, DOCKER_CONFIG: home, DOCKER_CONTEXT: 'gone' };
    await assert.rejects(findEndpoint(undefined, env), { code: 'docker-context', message: /'gone'/ });
  });

  it('uses TLS with DOCKER_TLS_VERIFY, with the files of DOCKER_CERT_PATH', async () => {
    const env = { HOME: home, DOCKER_HOST: 'tcp://builder:1234', DOCKER_TLS_VERIFY: '1', DOCKER_CERT_PATH: home };
    await assert.rejects(findEndpoint(undefined, env), { code: 'docker-certificates', exitCode: 3 });
    for (const name of ['ca', 'cert', 'key']) await writeFile(join(home, `${name}.pem`), name);
    const endpoint = await findEndpoint(undefined, env);
    assert.ok(endpoint.kind === 'tcp');
    assert.deepEqual(endpoint.tls, { ca: 'ca', cert: 'cert', key: 'key', verify: true });
  });

  it('says that no engine answers, where, and what to do', async () => {
    for (const [address, where] of [
      [join(home, 'none.sock'), /none\.sock: ENOENT/],
      ['tcp://127.0.0.1:9', /tcp:\/\/127\.0\.0\.1:9: ECONNREFUSED/],
    ] as const) {
      await assert.rejects(connectDocker({ address, env: {} }), (error) => {
        assert.ok(error instanceof HpcsError);
        assert.equal(error.code, 'docker-unreachable');
        assert.equal(error.exitCode, 3);
        assert.match(error.message, where);
        assert.match(error.suggestion ?? '', /--docker-path/);
        return true;
      });
    }
  });

  it('uses the flag even where DOCKER_HOST of this process says otherwise', async () => {
    const before = process.env['DOCKER_HOST'];
    process.env['DOCKER_HOST'] = 'tcp://127.0.0.1:9';
    try {
      await assert.rejects(connectDocker({ address: join(home, 'none.sock') }), { message: /none\.sock: ENOENT/ });
    } finally {
      if (before === undefined) delete process.env['DOCKER_HOST'];
      else process.env['DOCKER_HOST'] = before;
    }
  });
});

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

describe('starting', () => {
  it('a publication loads nothing that only agents and logins are spoken to with', async () => {
    const list = `
      import { registerHooks } from 'node:module';
      registerHooks({ load(url, context, next) { console.log(url); return next(url, context); } });
      await import('./src/publish.ts');`;
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', list], { cwd: `${import.meta.dirname}/../..` });
    const loaded = stdout.split('\n');
    // That the list is one: what a publication cannot do without is in it.
    for (const needed of ['/src/identity/client-identity.ts', '/node_modules/undici/']) {
      assert.ok(
        loaded.some((url) => url.includes(needed)),
        needed,
      );
    }
    const rare = ['@grpc/', 'protobufjs', 'openid-client', 'openssh-transport', 'ssh2/', 'openpgp/', 'age-encryption/'];
    assert.deepEqual(
      loaded.filter((url) => rare.some((name) => url.includes(name))),
      [],
    );
  });
});

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

describe('starting', () => {
  /** What is loaded with a module, as URLs. */
  const loadedBy = async (module: string): Promise<string[]> => {
    const list = `
      import { registerHooks } from 'node:module';
      registerHooks({ load(url, context, next) { console.log(url); return next(url, context); } });
      await import('./${module}');`;
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', list], { cwd: `${import.meta.dirname}/../..` });
    return stdout.split('\n');
  };
  const among = (urls: readonly string[], names: readonly string[]): string[] =>
    names.filter((name) => urls.some((url) => url.includes(name)));
  const rare = ['@grpc/', 'protobufjs', 'openid-client', 'openssh-transport', 'ssh2/', 'openpgp/', 'age-encryption/'];

  it('a publication loads nothing that only agents and logins are spoken to with', async () => {
    const loaded = await loadedBy('src/publish.ts');
    const needed = ['/src/identity/client-identity.ts', '/node_modules/undici/'];
    assert.deepEqual(among(loaded, needed), needed);
    assert.deepEqual(among(loaded, rare), []);
  });

  it('data-prep has its threads started before most of the program is loaded', async () => {
    const loaded = await loadedBy('commands/data-prep.ts');
    assert.deepEqual(among(loaded, ['/src/seal/threads.ts']), ['/src/seal/threads.ts']);
    assert.deepEqual(among(loaded, ['/src/publish.ts', '/src/config.ts', '/undici/', '/zod/', '/yaml/', ...rare]), []);
  });
});

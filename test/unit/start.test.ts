import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

describe('starting', () => {
  /** What a program loads and starts, in its order: URLs of modules, and names of threads. */
  const tracedBy = async (...program: string[]): Promise<string[]> => {
    const hooks = `
      import { registerHooks, syncBuiltinESMExports } from 'node:module';
      import threads from 'node:worker_threads';
      registerHooks({ load(url, context, next) { console.log(url); return next(url, context); } });
      const { Worker } = threads;
      threads.Worker = class extends Worker { constructor(url, options) { console.log(options.name); super(url, options); } };
      syncBuiltinESMExports();`;
    const options = { cwd: `${import.meta.dirname}/../..` };
    const { stdout } = await run(
      process.execPath,
      ['--import', `data:text/javascript,${encodeURIComponent(hooks)}`, ...program],
      options,
    ).catch((error: unknown) => error as { stdout: string });
    return stdout.split('\n');
  };
  const among = (lines: readonly string[], names: readonly string[]): string[] =>
    names.filter((name) => lines.some((line) => line.includes(name)));
  const rare = ['@grpc/', 'protobufjs', 'openid-client', 'openssh-transport', 'ssh2/', 'openpgp/', 'age-encryption/'];

  it('a publication loads nothing that only agents and logins are spoken to with', async () => {
    const loaded = await tracedBy('src/publish.ts');
    const needed = ['/src/identity/client-identity.ts', '/node_modules/undici/'];
    assert.deepEqual(among(loaded, needed), needed);
    assert.deepEqual(among(loaded, rare), []);
  });

  it('data-prep starts its threads before it loads most of the program', async () => {
    // It ends when it has found no such configuration.
    const traced = await tracedBy('bin/dev.js', 'data-prep', '--config', '/nowhere', '-i', '.', '--data-path-at-rest', '/x');
    const begun = Math.max(traced.indexOf('seal-thread'), traced.indexOf('digest-thread'));
    const most = ['/src/publish.ts', '/src/config.ts', '/undici/', '/zod/', '/yaml/'];
    assert.deepEqual(among(traced.slice(0, begun), ['/src/seal/threads.ts']), ['/src/seal/threads.ts']);
    assert.deepEqual(among(traced.slice(0, begun), [...most, ...rare]), []);
    assert.deepEqual(among(traced.slice(begun), most), most);
  });
});

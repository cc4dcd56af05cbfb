import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hpcsInProcess as hpcs } from '../../support/in-process.ts';

describe('hpcs server', () => {
  let directory: string;
  let port: number;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-test-'));
    const probe = createServer().listen(0, '127.0.0.1');
    await once(probe, 'listening');
    port = (probe.address() as AddressInfo).port;
    probe.close();
    await once(probe, 'close');
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  const configuration = async (extra = ''): Promise<string> => {
    const file = join(directory, 'hpcs-server.conf');
    await writeFile(
      file,
      `[spire-server]\naddress = x\nport = 8081\ntrust-domain = td\nsocket-path = ${directory}/no.sock\n` +
        `[vault]\nurl = https://127.0.0.1:1\nserver-role = r\n[listen]\nhost = 127.0.0.1\nport = ${port}\n${extra}`,
    );
    return file;
  };

  for (const legacy of [false, true]) {
    it(`${legacy ? 'serves everybody only when told so' : 'registers nobody by itself'}, and ends when told to`, async () => {
      const end = new AbortController();
      let status: number | undefined;
      const ask = async (): Promise<void> => {
        const answer = await fetch(`http://127.0.0.1:${port}/api/agents/token?hostname=cn01`, { method: 'POST' });
        status = answer.status;
        end.abort();
      };
      let asked: Promise<void> | undefined;
      const exit = await hpcs(['server', '--config', await configuration(), ...(legacy ? ['--allow-legacy-registration'] : [])], {
        signal: end.signal,
        onStderr: (text) => {
          if (text.includes('serving at')) asked ??= ask().catch(() => end.abort());
        },
      });
      await asked;
      // 503: allowed, but there is no SPIRE server here.
      assert.equal(status, legacy ? 503 : 403, exit.stderr);
      assert.equal(exit.code, 0, exit.stderr);
      assert.equal(exit.stderr.includes('anyone who reaches this server gets identities'), legacy);
    });
  }

  it('names the file or directory that cannot be written', async () => {
    const occupied = join(directory, 'occupied');
    await writeFile(occupied, '');
    const tls = `[tls]\ncert-file = /c\nkey-file = /k\n`;
    const output = join(occupied, 'policy');
    const policy = await hpcs(['server', 'spire-policy', '--config', await configuration(tls), '--output', output]);
    assert.equal(policy.code, 3, policy.stderr);
    assert.match(policy.stderr, new RegExp(`cannot write ${output}: ENOTDIR`));
  });

  it('names what is wrong with its configuration', async () => {
    const missing = await hpcs(['server', '--config', join(directory, 'none')]);
    assert.equal(missing.code, 2);
    assert.match(missing.stderr, /cannot read the configuration .*none: ENOENT/);
    const wrong = await hpcs([
      'server',
      '--config',
      await configuration('[tls]\ncert-file = /nonexistent\nkey-file = /nonexistent\n'),
    ]);
    assert.equal(wrong.code, 2);
    assert.match(wrong.stderr, /cannot read \/nonexistent: ENOENT/);
  });

  it('bootstrap tells with --json of each step why it is not right', async () => {
    const file = await configuration('[bootstrap]\njwks-url = https://x/keys\nissuer = https://x\n');
    const exit = await hpcs(['server', 'bootstrap', '--config', file, '--check', '--json'], { input: 'hvs.administrator\n' });
    assert.equal(exit.code, 4, exit.stderr);
    const { error, result } = JSON.parse(exit.stdout) as {
      error: { code: string };
      result: { steps: { what: string; state: string; why?: string }[] };
    };
    assert.equal(error.code, 'bootstrap-incomplete');
    const wrong = result.steps.filter(({ state }) => state === 'wrong');
    assert.ok(wrong.length > 0);
    for (const { what, why } of wrong) assert.match(why ?? '', /\S/, what);
    assert.match(wrong[0]?.why ?? '', /https:\/\/127\.0\.0\.1:1/);
  });

  it('says when something listens there already', async () => {
    const other = createServer().listen(port, '127.0.0.1');
    await once(other, 'listening');
    const exit = await hpcs(['server', '--config', await configuration()]);
    other.close();
    assert.equal(exit.code, 3);
    assert.match(exit.stderr, new RegExp(`cannot listen on 127\\.0\\.0\\.1:${port}: EADDRINUSE`));
  });
});

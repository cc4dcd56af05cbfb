import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { entry } from '../support/cli.ts';
import { onTerminal } from '../support/terminal.ts';

const cli = fileURLToPath(entry);
const module = new URL('../../src/secret-input.ts', import.meta.url).href;
const token = 'a-token_'.repeat(6).slice(0, 43);

describe('a secret on standard input', function () {
  this.timeout(30_000);
  let directory: string;
  let enrol: string[];
  let env: NodeJS.ProcessEnv;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-secret-'));
    // Nothing listens there.
    const configuration = `[spire-server]\naddress=127.0.0.1\nport=1\ntrust-domain=t\n[hpcs-server]\nurl=https://127.0.0.1:1\n[vault]\nurl=https://127.0.0.1:1\n[supercomputer]\naddress=a\nusername=u\n`;
    await writeFile(join(directory, 'hpcs.conf'), configuration);
    env = { ...process.env, HPCS_STATE_DIR: directory };
    enrol = [cli, 'enrol', '--config', join(directory, 'hpcs.conf')];
  });
  afterEach(() => rm(directory, { recursive: true }));

  const asked = (typed: string) => onTerminal([process.execPath, ...enrol].join(' '), /the enrolment token: $/, typed, { env });

  it('is asked for on a terminal, and not shown', async () => {
    const { screen, code } = await asked(`${token}\r`);
    assert.match(screen, /^the enrolment token: \r\nhpcs: error: cannot reach the HPCS server/);
    assert.deepEqual([code, screen.includes('a-token')], [4, false]);
  });

  it('is waited for no longer than to Ctrl-C on the terminal', async () => {
    const { screen, code } = await asked('a-tok\u0003');
    assert.equal(screen, 'the enrolment token: \r\nhpcs: error: interrupted\r\n');
    assert.equal(code, 130);
  });

  for (const read of ["readKey('-', signal)", "readToken({ what: 'token', form: /x/, expected: {}, signal })"]) {
    it(`is waited for no longer than to a signal, from a pipe that stays open: ${read}`, async () => {
      const program = `const { readKey, readToken } = await import(${JSON.stringify(module)});
        const signal = AbortSignal.timeout(100);
        await ${read}.catch((error) => console.log(error === signal.reason));`;
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
        stdio: ['pipe', 'pipe', 'inherit'],
        timeout: 10_000,
      });
      child.stdin.write('x');
      const [said, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
      assert.deepEqual([said, code], ['true\n', 0]);
    });
  }
});

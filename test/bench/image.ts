// Benchmark of container-prep, end to end, against the original's way: docker build, docker save, apptainer build, read-encrypt-write,
// scp. `npm run bench:image -- [--json] [--quick] [--runs N] [--no-warm-up] [--only example,large]`, on the sandbox's site. Ours is the
// whole command of the built client, with its identity, grant and key; the other one has no such steps here. Both run in turn; what counts is the ratio within one run.
import { execFileSync, spawn } from 'node:child_process';
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { parse, stringify } from 'ini';
import { loadConfig } from '../../src/config.ts';
import { containerOf, Site } from '../support/site.ts';
import { median } from './measure.ts';

const { values: flags } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    runs: { type: 'string', default: '3' },
    only: { type: 'string', default: 'example,large' },
    'no-warm-up': { type: 'boolean', default: false },
  },
});

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '../..');
const mebibytes = flags.quick ? 128 : 1024;

/** The images, each from a Dockerfile of the examples or of here. Half of the large one is text, half does not compress. */
const images: Readonly<Record<string, { tag: string; context: string; dockerfile: string }>> = {
  example: {
    tag: 'hpcs-example/jp2a',
    context: join(root, 'examples/jp2a'),
    dockerfile: join(root, 'examples/jp2a/Dockerfile'),
  },
  large: { tag: `hpcs-bench/large:${mebibytes}`, context: here, dockerfile: '-' },
};
const largeDockerfile = `FROM debian:bookworm-slim
RUN mkdir /data && for i in $(seq ${mebibytes / 2}); do \\
      head -c 1048576 /dev/urandom >/data/random$i; seq $((i * 1000000)) $((i * 1000000 + 200000)) | head -c 1048576 >/data/text$i; done
ENTRYPOINT ["/bin/true"]
`;

/** Runs a command to its end. @throws Error with what it said, when it fails */
async function run(command: readonly string[], options: { input?: string; env?: Record<string, string> } = {}): Promise<void> {
  const [program = '', ...args] = command;
  const child = spawn(program, args, {
    cwd: root,
    env: { ...process.env, ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const said: Buffer[] = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => said.push(part));
  child.stdin.end(options.input ?? '');
  const code = await new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve));
  if (code !== 0) throw new Error(`${command.join(' ')} ended ${code}: ${Buffer.concat(said).toString().slice(-2000)}`);
}

// What a user runs: the built client with its manifest, as in a package; a checkout must not keep that.
await run(['npm', 'run', '--silent', 'build']);
await using cleanup = new AsyncDisposableStack();
cleanup.defer(() => rm(join(root, 'oclif.manifest.json'), { force: true }));
await run([process.execPath, join(root, 'bin/manifest.js')]);
await using site = await Site.open();
const configuration = await direct();
const config = await loadConfig(configuration);
const { address, username } = config.supercomputer;
await run(['docker', 'build', '-q', '-t', 'hpcs-bench/original', '-f', join(here, 'image.Dockerfile'), here]);

const sshOptions = ['-q', '-B', '-i', config.supercomputer['identity-file'][0] ?? '', '-o', `UserKnownHostsFile=${config.supercomputer['known-hosts'][0]}`]; // prettier-ignore

/** Configuration for the site's own address: on this machine's, the engine would copy every byte once more for both ways. */
async function direct(): Promise<string> {
  const { NetworkSettings } = await site.docker.getContainer(containerOf('site')).inspect();
  const own = Object.values(NetworkSettings.Networks)[0]?.IPAddress;
  const written = parse(await readFile(site.configuration, 'utf8')) as { supercomputer: Record<string, unknown> };
  const { port: _published, ...supercomputer } = written.supercomputer;
  const hosts = await readFile(join(site.directory, 'known_hosts'), 'utf8');
  const knownHosts = join(site.temporary, 'known_hosts');
  await writeFile(knownHosts, hosts.replaceAll(/^\S+/gm, `${own}`));
  const path = join(site.temporary, 'direct.conf');
  await writeFile(path, stringify({ ...written, supercomputer: { ...supercomputer, address: own, 'known-hosts': knownHosts } }));
  return path;
}

/** The original's way: what it adds to an image is its logic and a program; a new build each time, as for a user who does it once. */
async function original(tag: string): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'hpcs-bench-image-'));
  const prepared = `hpcs-bench/prepared:${process.pid}`;
  try {
    await chmod(work, 0o777);
    await mkdir(join(work, 'context'));
    await copyFile(join(site.directory, 'programs/age'), join(work, 'context/age'));
    await writeFile(
      join(work, 'context/Dockerfile'),
      `FROM ${tag}\nCOPY age /sd-container/tools/\nRUN mkdir -p /sd-container/input /sd-container/output /sd-container/scratch /sd-container/keys\n`,
    );
    await run(['docker', 'build', '-q', '--no-cache', '-t', prepared, join(work, 'context')]);
    await run(['docker', 'save', '-o', join(work, 'image.tar'), prepared]);
    await chmod(join(work, 'image.tar'), 0o644);
    await run(['docker', 'run', '--rm', '--log-driver', 'none', '--cap-drop', 'ALL', '--network', 'none', '-v', `${work}:/build`, 'hpcs-bench/original', 'python3', '/image-original.py', '/build/image.tar', '/build']); // prettier-ignore
    await run(['scp', ...sshOptions, join(work, 'app.sif.age'), `${username}@${address}:${site.scratch}/original.sif`]);
  } finally {
    await rm(work, { recursive: true, force: true });
    execFileSync('docker', ['rmi', '-f', prepared], { stdio: 'ignore' });
  }
}

async function ours(tag: string): Promise<void> {
  const args = ['-b', tag, '-e', '-u', username, '-c', 'nid000001', '--pull', 'never', '--data-path', 'ours.sif', '--data-path-at-rest', site.scratch]; // prettier-ignore
  const env = { HPCS_CONFIG: configuration, HPCS_STATE_DIR: site.state };
  await run([process.execPath, join(root, 'bin/run.js'), 'container-prep', ...args], { env });
}

const contenders = { ours, original } as const;
type Contender = keyof typeof contenders;

async function seconds(contender: Contender, tag: string): Promise<number> {
  // What the one before left for the system to write is not this one's work.
  execFileSync('sync');
  const started = performance.now();
  await contenders[contender](tag);
  const taken = (performance.now() - started) / 1000;
  await site.run(`rm -f ${site.scratch}/*`);
  return taken;
}

const runs = Number(flags.runs);
const result: Record<string, unknown> = { runs };
for (const name of flags.only.split(',')) {
  const image = images[name];
  if (image === undefined) throw new Error(`no image called ${name}: ${Object.keys(images).join(', ')}`);
  const build = ['docker', 'build', '-q', '-t', image.tag];
  if (image.dockerfile === '-') await run([...build, '-'], { input: largeDockerfile });
  else await run([...build, '-f', image.dockerfile, image.context]);
  const bytes = Number(execFileSync('docker', ['image', 'inspect', '-f', '{{.Size}}', image.tag], { encoding: 'utf8' }));
  const taken: Record<Contender, number[]> = { ours: [], original: [] };
  // The first round warms caches and does not count.
  for (let round = flags.quick || flags['no-warm-up'] ? 1 : 0; round <= runs; round++) {
    for (const contender of ['ours', 'original'] as const) {
      const one = await seconds(contender, image.tag);
      process.stderr.write(`${name} ${round === 0 ? 'warm-up' : `run ${round}`} ${contender}: ${one.toFixed(2)} s\n`);
      if (round > 0) taken[contender].push(one);
    }
  }
  const medians = { ours: median(taken.ours), original: median(taken.original) };
  result[name] = { bytes, seconds: medians, vsOriginal: Number((medians.original / medians.ours).toFixed(2)) };
}
process.stdout.write(`${JSON.stringify(result, null, flags.json ? undefined : 2)}\n`);

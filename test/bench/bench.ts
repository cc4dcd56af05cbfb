// Benchmark of sealing and shipping, and of opening, against other ways: `npm run bench -- [--json] [--quick | --mib N] [--runs N] [--only A,B] [--site DIR]`.
// All contenders run in turn on a loopback sshd; what counts are ratios within one run.
import { execFileSync } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Sshd } from '../support/sshd.ts';
import { makeDataset, type DatasetName } from './datasets.ts';
import { measure, median, type Cost } from './measure.ts';

const { values: flags } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    mib: { type: 'string' },
    site: { type: 'string', default: '/dev/shm' },
    runs: { type: 'string', default: '3' },
    only: { type: 'string', default: 'A,B,C' },
    contenders: { type: 'string' },
    'no-delay': { type: 'boolean', default: false },
    'no-open': { type: 'boolean', default: false },
  },
});

/** One way to get a data set to the site, or back from it: a command for each measured run. */
type Contender = (run: Run) => { command: readonly string[]; env?: NodeJS.ProcessEnv; prepare?: () => void };

/** What a contender is told. */
interface Run {
  source: string;
  name: DatasetName;
  /** Directory on the site, and on this machine, of this run alone. */
  target: string;
  work: string;
}

const here = dirname(fileURLToPath(import.meta.url));
const mib = 1024 * 1024;
const size = Number(flags.mib ?? (flags.quick ? 128 : 1024)) * mib;
const place = join(tmpdir(), 'hpcs-bench-data');
const user = 'dave';

execFileSync(join(here, 'set-up.sh'), { stdio: ['ignore', 'ignore', 'inherit'] });
execFileSync('npm', ['run', '--silent', 'build'], { cwd: join(here, '../..'), stdio: ['ignore', 'ignore', 'inherit'] });

await using sshd = await Sshd.start(['ed25519']);
await sshd.restart(['Subsystem sftp /usr/lib/openssh/sftp-server']);
writeFileSync(sshd.file('known_hosts'), await sshd.knownHost());
const work = mkdtempSync(join(tmpdir(), 'hpcs-bench-'));
chmodSync(work, 0o755);
using cleanup = new DisposableStack();
cleanup.defer(() => rmSync(work, { recursive: true, force: true }));

// In memory, unless told otherwise: a disk's pace is not what is measured, and ours alone waits until the disk has it all.
const site = mkdtempSync(join(flags.site, 'hpcs-bench-site-'));
chmodSync(site, 0o755);
cleanup.defer(() => rmSync(site, { recursive: true, force: true }));

const identity = join(work, 'age.key');
execFileSync('age-keygen', ['-o', identity], { stdio: 'ignore' });
const recipient = execFileSync('age-keygen', ['-y', identity], { encoding: 'utf8' }).trim();
const sshOptions = (port: number): string[] => [
  '-i',
  sshd.file('ed25519'),
  '-o',
  `Port=${port}`,
  '-o',
  'BatchMode=yes',
  '-o',
  'IdentitiesOnly=yes',
  '-o',
  `UserKnownHostsFile=${sshd.file('known_hosts')}`,
];
const ssh = (port = sshd.port): string => ['ssh', ...sshOptions(port), `${user}@127.0.0.1`].join(' ');
const pipeline = (text: string): { command: readonly string[] } => ({ command: ['bash', '-o', 'pipefail', '-c', text] });
const tar = ({ source }: Run): string => `tar -C ${dirname(source)} -c ${basename(source)}`;

function configuration(port: number): string {
  const file = join(work, `hpcs-client-${port}.conf`);
  writeFileSync(
    file,
    `[spire-server]\naddress = a\nport = 1\ntrust-domain = t\n[hpcs-server]\nurl = https://a\n[vault]\nurl = https://b\n[supercomputer]
address = 127.0.0.1\nport = ${port}\nusername = ${user}\nidentity-file = ${sshd.file('ed25519')}\nknown-hosts = ${sshd.file('known_hosts')}\n`,
  );
  return file;
}

const ours =
  (format: string, { port = sshd.port, compression = 'auto' } = {}): Contender =>
  ({ source, target, work: own }) => ({
    command: [
      process.execPath,
      join(here, 'ours.mjs'),
      'send',
      configuration(port),
      source,
      join(target, 'sealed'),
      format,
      join(own, 'key'),
      compression,
    ],
  });

const senders: Readonly<Record<string, Contender>> = {
  ours: ours('openpgp'),
  'ours-age': ours('age'),
  'ours-age-zstd': ours('age', { compression: 'zstd' }),
  original: ({ source, target, work: own }) => ({
    command: ['/usr/bin/python3', join(here, 'original.py'), source, own, recipient, '127.0.0.1', String(sshd.port), user, sshd.file('ed25519'), sshd.file('known_hosts'), join(target, 'sealed')], // prettier-ignore
  }),
  shell: (run) =>
    pipeline(
      `${tar(run)} | zstd -q -T0 | age -r ${recipient} | tee >(sha512sum >/dev/null) | ${ssh()} 'cat >${run.target}/sealed'`,
    ),
  tuned: (run) =>
    pipeline(
      `${tar(run)} ${run.name === 'A' ? '' : '| zstd -q -1 -T0'} | age -r ${recipient} | tee >(sha512sum >/dev/null) | ${ssh()} -c aes128-gcm@openssh.com 'cat >${run.target}/sealed'`,
    ),
  restic: ({ source, target }) => {
    const repository = [
      '-r',
      `sftp:${user}@127.0.0.1:${target}/restic`,
      '-o',
      `sftp.command=${ssh()} -s sftp`,
      '--no-cache',
      '-q',
    ];
    const env = { RESTIC_PASSWORD: 'benchmark' };
    return {
      command: ['restic', ...repository, 'backup', source],
      env,
      prepare: () => void execFileSync('restic', [...repository, 'init'], { env: { ...process.env, ...env }, stdio: 'ignore' }),
    };
  },
  rclone: ({ source, target }) => ({
    command: ['rclone', '--config', '/dev/null', '-q', 'copy', source, 'sealed:'],
    env: {
      RCLONE_CONFIG_SITE_TYPE: 'sftp',
      RCLONE_CONFIG_SITE_HOST: '127.0.0.1',
      RCLONE_CONFIG_SITE_PORT: String(sshd.port),
      RCLONE_CONFIG_SITE_USER: user,
      RCLONE_CONFIG_SITE_KEY_FILE: sshd.file('ed25519'),
      RCLONE_CONFIG_SITE_KNOWN_HOSTS_FILE: sshd.file('known_hosts'),
      RCLONE_CONFIG_SEALED_TYPE: 'crypt',
      RCLONE_CONFIG_SEALED_REMOTE: `site:${target}`,
      RCLONE_CONFIG_SEALED_PASSWORD: execFileSync('rclone', ['obscure', 'benchmark'], { encoding: 'utf8' }).trim(),
    },
  }),
  // What nobody can be faster than here: bytes that are ready, over one channel, without any work on them.
  limit: ({ source, name, target }) =>
    pipeline(
      `${name === 'B' ? `cat ${source}/*/*.dat` : `cat ${source}`} | ${ssh()} -c aes128-gcm@openssh.com 'cat >${target}/plain'`,
    ),
};

const openers: Readonly<Record<string, Contender>> = {
  ours: ({ work: own }) => ({
    command: [
      process.execPath,
      join(here, 'ours.mjs'),
      'open',
      join(own, 'sealed-ours'),
      join(own, 'key-ours'),
      join(own, 'out'),
    ],
  }),
  original: ({ work: own }) =>
    pipeline(`age -d -i ${identity} -o ${own}/data.tgz ${own}/sealed-original && sha512sum ${own}/sealed-original && mkdir ${own}/out && tar -C ${own}/out -xzf ${own}/data.tgz`), // prettier-ignore
  shell: ({ work: own }) =>
    pipeline(`mkdir ${own}/out; tee >(sha512sum >/dev/null) <${own}/sealed-shell | age -d -i ${identity} | zstd -d -q | tar -C ${own}/out -x`), // prettier-ignore
};

let counter = 0;
/** Runs a contender once, in places of its own, and removes what it made. */
async function once1(contender: Contender, source: string, name: DatasetName): Promise<Cost> {
  const run = freshRun(source, name);
  try {
    const { command, env, prepare } = contender(run);
    prepare?.();
    // What an earlier one left for the system to write is not to slow this one, nor is what the system has let go of meanwhile.
    execFileSync('sync');
    execFileSync('find', [source, '-type', 'f', '-exec', 'cat', '{}', '+'], { stdio: ['ignore', 'ignore', 'inherit'] });
    return await measure(command, env);
  } finally {
    rmSync(run.work, { recursive: true, force: true });
    rmSync(run.target, { recursive: true, force: true });
  }
}

function freshRun(source: string, name: DatasetName): Run {
  const own = join(work, `run-${counter++}`);
  const target = join(site, `run-${counter}`);
  for (const directory of [own, target]) mkdirSync(directory, { mode: 0o777 });
  chmodSync(target, 0o777);
  return { source, name, target, work: own };
}

/** Medians of several runs of each contender, all in turn. */
async function compare(
  label: string,
  contenders: Readonly<Record<string, (() => Promise<Cost>) | undefined>>,
  runs: number,
): Promise<Record<string, Cost>> {
  const costs: Record<string, Cost[]> = {};
  // The first round warms caches and does not count.
  for (let round = flags.quick ? 1 : 0; round <= runs; round++) {
    for (const [name, run] of Object.entries(contenders)) {
      if (run === undefined) continue;
      const cost = await run();
      process.stderr.write(`${label} ${round === 0 ? 'warm-up' : `run ${round}`} ${name}: ${cost.seconds.toFixed(2)} s, ${Math.round(cost.mib)} MiB\n`); // prettier-ignore
      if (round > 0) (costs[name] ??= []).push(cost);
    }
  }
  return Object.fromEntries(
    Object.entries(costs).map(([name, list]) => [
      name,
      { seconds: median(list.map((cost) => cost.seconds)), mib: Math.max(...list.map((cost) => cost.mib)) },
    ]),
  );
}

/** How many times as long as ours another one takes. */
function ratios(costs: Record<string, Cost>, mine: string): Record<string, number> {
  const own = costs[mine]?.seconds ?? Number.NaN;
  const against = (name: string): [string, number][] => {
    const other = costs[name];
    return other === undefined ? [] : [[`vs${name[0]?.toUpperCase()}${name.slice(1)}`, Number((other.seconds / own).toFixed(2))]];
  };
  return Object.fromEntries(['original', 'shell', 'tuned', 'limit', 'restic', 'rclone'].flatMap(against));
}

const runs = Number(flags.runs);
const wanted = (name: string): boolean => flags.contenders === undefined || flags.contenders.split(',').includes(name);
const result: Record<string, unknown> = { bytes: size, runs };
for (const name of flags.only.split(',') as DatasetName[]) {
  const source = makeDataset(place, name, size);
  const costs = await compare(
    name,
    Object.fromEntries(
      Object.entries(senders)
        .filter(([key]) => wanted(key))
        .map(([key, contender]) => [key, () => once1(contender, source, name)]),
    ),
    runs,
  );
  result[name] = { costs, ...ratios(costs, 'ours'), age: ratios(costs, 'ours-age'), ageZstd: ratios(costs, 'ours-age-zstd') };
  if (!flags['no-open']) result[name] = { ...(result[name] as object), decrypt: await decryption(source, name) };
}
if (!flags['no-delay']) {
  const source = makeDataset(place, 'A', size);
  for (const roundTrip of [20, 50]) {
    const proxy = spawn('/usr/bin/python3', [join(here, 'delay-proxy.py'), String(sshd.port), String(roundTrip / 2)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    using _ended = { [Symbol.dispose]: () => void proxy.kill() };
    const [line] = (await once(proxy.stdout, 'data')) as [Buffer];
    const port = Number(String(line).trim());
    writeFileSync(sshd.file('known_hosts'), (await sshd.knownHost()) + (await sshd.knownHost('ed25519', `[127.0.0.1]:${port}`)));
    const scp: Contender = ({ source: file, target }) => ({
      command: ['scp', '-q', ...sshOptions(port), '-c', 'aes128-gcm@openssh.com', file, `${user}@127.0.0.1:${target}/plain`],
    });
    const costs = await compare(
      `${roundTrip} ms`,
      { ours: () => once1(ours('openpgp', { port }), source, 'A'), scp: () => once1(scp, source, 'A') },
      Math.max(1, runs - 1),
    );
    result[`vsScp${roundTrip}ms`] = Number(
      ((costs['scp']?.seconds ?? Number.NaN) / (costs['ours']?.seconds ?? Number.NaN)).toFixed(2),
    );
    result[`delay${roundTrip}ms`] = costs;
  }
}
if (flags.json) process.stdout.write(`${JSON.stringify(result)}\n`);
else process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);

/** The way back: sealed once by each contender, opened several times. */
async function decryption(source: string, name: DatasetName): Promise<Record<string, unknown>> {
  const own = join(work, `open-${name}`);
  mkdirSync(own);
  try {
    for (const contender of Object.keys(openers)) {
      const sender = senders[contender];
      if (!wanted(contender) || sender === undefined) continue;
      const run = freshRun(source, name);
      const { command, env } = sender(run);
      await measure(command, env);
      execFileSync('mv', [join(run.target, 'sealed'), join(own, `sealed-${contender}`)]);
      if (contender === 'ours') {
        writeFileSync(join(own, 'key-ours'), readFileSync(join(run.work, 'key')), { mode: 0o600 });
      }
      rmSync(run.work, { recursive: true });
      rmSync(run.target, { recursive: true });
    }
    const costs = await compare(
      `open ${name}`,
      Object.fromEntries(
        Object.entries(openers)
          .filter(([key]) => wanted(key))
          .map(([key, contender]) => [
            key,
            async () => {
              const cost = await measure(contender({ source, name, target: own, work: own }).command);
              statSync(join(own, 'out'));
              rmSync(join(own, 'out'), { recursive: true });
              return cost;
            },
          ]),
      ),
      Math.max(1, runs - 1),
    );
    return { costs, ...ratios(costs, 'ours') };
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
}

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFile,
  cp,
  link,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseConfig } from '../../src/config.ts';
import { HpcsError } from '../../src/errors.ts';
import { classifyName, decryptName } from '../../src/gocryptfs/names.ts';
import { openVolume } from '../../src/gocryptfs/volume.ts';
import { connectDocker } from '../../src/image/docker.ts';
import { findResults } from '../../src/job/found.ts';
import { resultFiles } from '../../src/job/manifest.ts';
import { openPartialResults, type PartialResults } from '../../src/job/partial.ts';
import { openResults } from '../../src/job/results.ts';
import { resultDirectory } from '../../src/job/script.ts';
import type { SubmittedRecord } from '../../src/job/store.ts';
import { renderVolumeKey } from '../../src/job/volume-key.ts';
import { Volume } from '../../src/node/volume.ts';
import { readTar } from '../../src/pack/tar.ts';
import type { SealFormat } from '../../src/seal/format.ts';
import { ensurePrograms } from '../../src/sandbox/images.ts';
import { generateKey } from '../../src/seal/keys.ts';
import { seal } from '../../src/seal/seal.ts';
import { Secret } from '../../src/secret.ts';
import { connect } from '../../src/site/connect.ts';
import type { Transport } from '../../src/site/transport.ts';
import { listTree, pattern, writePlainTree } from '../support/plain-tree.ts';
import { Sshd } from '../support/sshd.ts';

const { signal } = new AbortController();

describe('partial results from volumes of the real gocryptfs', function () {
  this.timeout(60_000);
  let sshd: Sshd;
  let transport: Transport;
  let temporary: string;
  let count = 0;
  /** Debian's, and the one that jobs bring along. */
  const programs = { debian: 'gocryptfs', job: '' };

  before(async function () {
    // Compiles the programs of the tool kit where they are not there yet.
    this.timeout(1_200_000);
    temporary = await mkdtemp(join(tmpdir(), 'hpcs-volumes-'));
    programs.job = await jobsGocryptfs(temporary);
    sshd = await Sshd.start();
    await writeFile(sshd.file('known_hosts'), await sshd.knownHost());
    const site = `address = 127.0.0.1\nusername = alice\nport = ${sshd.port}\nidentity-file = ${sshd.file('ed25519')}\nknown-hosts = ${sshd.file('known_hosts')}`;
    const others =
      '[spire-server]\naddress = a\nport = 1\ntrust-domain = t\n[hpcs-server]\nurl = https://a\n[vault]\nurl = https://b';
    transport = await connect(parseConfig(`${others}\n[supercomputer]\n${site}\n`, 'test.conf'));
  });
  after(async () => {
    await transport[Symbol.asyncDispose]();
    await sshd[Symbol.asyncDispose]();
    await rm(temporary, { recursive: true, force: true });
  });

  /** A job that was killed: what it wrote with the real gocryptfs, as it lies on the site. */
  async function killedJob(
    write: (volume: Volume) => Promise<void>,
    options: { format?: SealFormat; restart?: number; program?: string } = {},
  ): Promise<{ job: SubmittedRecord; directory: string; cipher: string; password: Secret }> {
    const { format = 'openpgp', restart = 0, program = programs.job } = options;
    const key = await generateKey(format);
    const job: SubmittedRecord = {
      version: 1,
      local: randomBytes(16).toString('hex'),
      jobId: String(4711 + count++),
      site: '127.0.0.1',
      username: 'alice',
      name: 'test',
      workdir: join(sshd.file('home/alice'), "work 'dir'"),
      created: new Date().toISOString(),
      image: { sha512: '' },
      data: { sha512: '' },
      format,
      resultKey: key.secretKey,
      authenticationKey: new Secret(randomBytes(32).toString('hex')),
    };
    const directory = resultDirectory(job.workdir, job.name, job.jobId, restart);
    await mkdir(directory, { recursive: true });
    const cipher = join(directory, resultFiles.outputVolume);
    let password: Secret;
    {
      await using volume = await Volume.create(program, cipher, join(temporary, `plain-${count}`), { keep: true });
      password = new Secret(volume.password.reveal());
      await write(volume);
    }
    await placeKey(
      directory,
      renderVolumeKey(password, { id: job.jobId, restart }, job.authenticationKey),
      key.publicKey,
      format,
    );
    give();
    return { job, directory, cipher, password };
  }

  async function placeKey(directory: string, key: Secret, publicKey: string, format: SealFormat): Promise<void> {
    const sealed = seal(once1(key.bytes()), { format, recipients: [publicKey], compress: 'none' });
    await writeFile(join(directory, resultFiles.outputVolumeKey), sealed.bytes);
  }

  /** On the site all belongs to the user, as it does when the user's job makes it. */
  function give(): void {
    execFileSync('chown', ['-R', '--reference', sshd.file('home/alice'), sshd.file('home/alice')]);
  }

  const target = (job: { jobId: string }): string => join(temporary, `results-${job.jobId}`);
  const open = (job: SubmittedRecord): Promise<PartialResults> => openPartialResults(transport, job, target(job), { signal });

  /** Where a plain name of the volume's root lies. */
  async function cipherPath(cipher: string, password: Secret, plain: string): Promise<string> {
    const keys = openVolume(await readFile(join(cipher, 'gocryptfs.conf'), 'utf8'), password);
    const iv = await readFile(join(cipher, 'gocryptfs.diriv'));
    const names = (await readdir(cipher)).filter((name) => classifyName(name).kind === 'name');
    const found = names.find((name) => decryptName(keys, iv, name).toString() === plain);
    assert.ok(found !== undefined, plain);
    return join(cipher, found);
  }

  async function refuses(job: SubmittedRecord, code: string, text = /./): Promise<void> {
    await assert.rejects(open(job), (error: unknown) => {
      assert.ok(error instanceof HpcsError, String(error));
      assert.equal(error.code, code, error.message);
      assert.match(error.message, text);
      return true;
    });
    assert.deepEqual(
      (await readdir(temporary)).filter((name) => name.includes(`results-${job.jobId}`)),
      [],
    );
  }

  for (const [program, format] of [
    ['debian', 'openpgp'],
    ['job', 'age'],
  ] as const) {
    it(`are all that the mounted volume of ${program}'s gocryptfs held, with the key sealed as ${format}`, async () => {
      let expected: Awaited<ReturnType<typeof listTree>> = {};
      const { job } = await killedJob(
        async ({ path }) => {
          await writePlainTree(path);
          await mkdir(join(path, 'borders'));
          const blocks = [1, 2, 3, 255, 256, 257, 512];
          for (const size of blocks.flatMap((n) => [n * 4096 - 1, n * 4096, n * 4096 + 1])) {
            await writeFile(join(path, 'borders', String(size)), pattern(size, String(size)));
          }
          await writeFile(join(path, 'borders', 'overwritten'), pattern(20_000, 'old'));
          await writeFile(join(path, 'borders', 'overwritten'), pattern(9_000, 'new'), { flag: 'r+' });
          await truncate(join(path, 'borders', 'overwritten'), 15_000);
          await utimes(join(path, 'borders', '4096'), 1e9, 1e9);
          expected = await listTree(path);
          execFileSync('mkfifo', [join(path, 'fifo is left out')]);
        },
        { format, program: programs[program] },
      );
      const results = await open(job);
      assert.deepEqual({ ...results, files: 0 }, { directory: target(job), files: 0, damaged: [], altered: [], unread: [] });
      const found = await listTree(target(job));
      assert.ok(Object.keys(expected).length > 50);
      assert.deepEqual(found, expected);
      assert.equal(results.files, Object.values(found).filter((entry) => entry.kind === 'file').length);
      assert.equal((await stat(join(target(job), 'borders', '4096'))).mtimeMs, 1e12);
      assert.equal((await stat(target(job))).mode & 0o777, 0o700);
    });
  }

  it('keep names that are not UTF-8, hard links, and links that lead outside', async () => {
    const strange = Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from('name')]);
    const { job } = await killedJob(async ({ path }) => {
      await writeFile(Buffer.concat([Buffer.from(`${path}/`), strange]), 'strange');
      await writeFile(join(path, 'one'), 'linked');
      await link(join(path, 'one'), join(path, 'two'));
      execFileSync('ln', ['-s', '../../../etc', join(path, 'up')]);
    });
    const results = await open(job);
    assert.equal(results.files, 3);
    const names = await readdir(target(job), { encoding: 'buffer' });
    assert.ok(names.some((name) => name.equals(strange)));
    assert.equal(await readFile(join(target(job), 'two'), 'utf8'), 'linked');
    assert.equal(await readlink(join(target(job), 'up')), '../../../etc');
  });

  it('are what was written before gocryptfs was killed in the middle of it', async () => {
    const { job } = await killedJob(async ({ path }) => {
      await writeFile(join(path, 'before'), 'written before');
      // Lines of odd length: blocks are rewritten as they grow.
      const writer = spawn('sh', [
        '-c',
        'i=0; while printf "line %08d of a log\\n" $i; do i=$((i+1)); done 2>/dev/null >> "$0"',
        join(path, 'log'),
      ]);
      const bulk = spawn('sh', ['-c', 'yes 0123456789abcde | dd of="$0" bs=1M 2>/dev/null', join(path, 'bulk')]);
      const ended = Promise.all([once(writer, 'exit'), once(bulk, 'exit')]);
      await sleep(300);
      kill(path);
      await ended;
      execFileSync('umount', ['-l', path]);
    });
    const results = await open(job);
    assert.deepEqual(results.altered, []);
    assert.equal(await readFile(join(target(job), 'before'), 'utf8'), 'written before');
    const log = await readFile(join(target(job), 'log'), 'latin1');
    assert.ok(log.length > 4096, `wrote only ${log.length} bytes`);
    let all = '';
    for (let i = 0; all.length < log.length; i++) all += `line ${String(i).padStart(8, '0')} of a log\n`;
    assert.ok(all.startsWith(log), 'the log is not a beginning of what was written');
    const bulk = await readFile(join(target(job), 'bulk'), 'latin1');
    assert.ok(bulk.length > 4096 && '0123456789abcde\n'.repeat(Math.ceil(bulk.length / 16)).startsWith(bulk));
  });

  it('name the files that are cut in the middle of a block, and keep what stood before', async () => {
    const plain = pattern(10_000, 'cut');
    const { job, cipher, password } = await killedJob(async ({ path }) => {
      await writeFile(join(path, 'cut'), plain);
      await writeFile(join(path, 'whole'), plain);
    });
    await truncate(await cipherPath(cipher, password, 'cut'), 18 + 4128 + 2000);
    const results = await open(job);
    assert.deepEqual(
      { damaged: results.damaged, altered: results.altered, files: results.files },
      { damaged: ['cut'], altered: [], files: 2 },
    );
    assert.deepEqual(await readFile(join(target(job), 'cut')), plain.subarray(0, 4096));
    assert.deepEqual(await readFile(join(target(job), 'whole')), plain);
  });

  it('name the files in which a byte was flipped, and hold none of it', async () => {
    const plain = pattern(10_000, 'flip');
    const { job, cipher, password } = await killedJob(async ({ path }) => {
      for (const name of ['flipped', 'whole']) await writeFile(join(path, name), plain);
    });
    const file = await cipherPath(cipher, password, 'flipped');
    const bytes = await readFile(file);
    bytes[18 + 4128 + 500] = (bytes[18 + 4128 + 500] ?? 0) ^ 1;
    await writeFile(file, bytes);
    const results = await open(job);
    assert.deepEqual({ damaged: results.damaged, altered: results.altered }, { damaged: [], altered: ['flipped'] });
    assert.deepEqual(await readFile(join(target(job), 'flipped')), plain.subarray(0, 4096));
    assert.deepEqual(await readFile(join(target(job), 'whole')), plain);
  });

  it('leave out names and links that are not those of the job', async () => {
    const { job, cipher, password } = await killedJob(async ({ path }) => {
      await writeFile(join(path, 'good'), 'good');
      await writeFile(join(path, 'l'.repeat(200)), 'long');
      await mkdir(join(path, 'directory'));
      await writeFile(join(path, 'directory', 'lost'), 'lost');
      execFileSync('ln', ['-s', 'good', join(path, 'link')]);
    });
    await rm(join(await cipherPath(cipher, password, 'directory'), 'gocryptfs.diriv'));
    for (const name of (await readdir(cipher)).filter((one) => one.endsWith('.name'))) await rm(join(cipher, name));
    const linkPath = await cipherPath(cipher, password, 'link');
    await rm(linkPath);
    execFileSync('ln', ['-s', '/etc/passwd', linkPath]);
    await writeFile(join(cipher, 'plain'), 'not the job');
    const results = await open(job);
    assert.equal(results.altered.length, 4, results.altered.join('\n'));
    assert.deepEqual((await readdir(target(job), { recursive: true })).toSorted(), ['directory', 'good']);
  });

  it('say what the site could not read', async () => {
    const { job, cipher, password } = await killedJob(async ({ path }) => {
      for (const name of ['good', 'secret']) await writeFile(join(path, name), name);
    });
    execFileSync('chmod', ['0', await cipherPath(cipher, password, 'secret')]);
    const results = await open(job);
    assert.deepEqual(await readdir(target(job)), ['good']);
    assert.equal(results.unread.length, 1);
    assert.match(results.unread[0] ?? '', /Permission denied/);
  });

  it('are refused when the site put a volume of its own in their place', async () => {
    const { job, directory, cipher } = await killedJob(({ path }) => writeFile(join(path, 'result'), 'true'));
    const other = await killedJob(({ path }) => writeFile(join(path, 'result'), 'false'));
    await rm(cipher, { recursive: true });
    await cp(other.cipher, cipher, { recursive: true });
    give();
    await refuses(job, 'wrong-key');
    // The site knows the result's public key, which stands in the script, but not the job's authentication key.
    const sealed = await generateKey('openpgp');
    const mine = { ...job, resultKey: sealed.secretKey };
    const forged = renderVolumeKey(other.password, { id: job.jobId, restart: 0 }, new Secret(randomBytes(32).toString('hex')));
    await placeKey(directory, forged, sealed.publicKey, 'openpgp');
    await refuses(mine, 'volume-key-forged');
    const older = renderVolumeKey(other.password, { id: job.jobId, restart: 1 }, job.authenticationKey);
    await placeKey(directory, older, sealed.publicKey, 'openpgp');
    await refuses(mine, 'volume-key-forged');
    await placeKey(directory, other.password, sealed.publicKey, 'openpgp');
    await refuses(mine, 'volume-key-forged');
  });

  it("are refused when the volume's configuration is missing, cut or of another kind", async () => {
    const { job, cipher } = await killedJob(({ path }) => writeFile(join(path, 'result'), 'true'));
    const file = join(cipher, 'gocryptfs.conf');
    const content = await readFile(file, 'utf8');
    await writeFile(file, content.slice(0, 50));
    await refuses(job, 'volume-invalid');
    await writeFile(file, content.replace('EMENames', 'PlaintextNames'));
    await refuses(job, 'volume-unsupported', /PlaintextNames/);
    await rename(file, `${file}.away`);
    await refuses(job, 'volume-invalid');
    await rm(cipher, { recursive: true });
    await refuses(job, 'volume-unreadable');
  });

  it('come from the newest run of the job', async () => {
    const { job, directory } = await killedJob(({ path }) => writeFile(join(path, 'result'), 'second'), { restart: 10 });
    const first = resultDirectory(job.workdir, job.name, job.jobId, 0);
    for (const name of [first, `${first}.2`, `${first}.out`, `${first}.99x`, `${first}.007`]) await mkdir(name);
    await appendFile(`${first}.11`, 'a file, not a directory');
    give();
    assert.deepEqual(await findResults(transport, job), { directory, restart: 10, content: 'partial' });
    await open(job);
    assert.equal(await readFile(join(target(job), 'result'), 'utf8'), 'second');
  });

  it('are not opened when there are none, or whole ones, or the target exists', async () => {
    const { job, directory } = await killedJob(({ path }) => writeFile(join(path, 'result'), 'x'));
    await assert.rejects(openResults(transport, job, target(job), { signal }), { code: 'no-results', suggestion: /--partial/ });
    await writeFile(join(directory, resultFiles.manifest), '{}');
    await refuses(job, 'results-whole');
    await rm(join(directory, resultFiles.manifest));
    await mkdir(target(job));
    await assert.rejects(open(job), { code: 'target-exists', kind: 'local' });
    await rm(target(job), { recursive: true });
    await rm(join(directory, resultFiles.outputVolumeKey));
    await refuses(job, 'no-partial-results');
  });

  it('leave nothing when interrupted', async () => {
    const { job } = await killedJob(async ({ path }) => {
      for (let i = 0; i < 30; i++) await writeFile(join(path, `file ${i}`), pattern(1_000_000, String(i)));
    });
    const controller = new AbortController();
    const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
    const opening = openPartialResults(transport, job, target(job), { signal: controller.signal });
    const begun = async (): Promise<string[]> =>
      (await readdir(temporary)).filter((name) => name.includes(`results-${job.jobId}`));
    const over = new AbortController();
    const end = (): void => over.abort();
    void opening.then(end, end);
    while (!over.signal.aborted && (await begun()).length === 0) await sleep(1);
    controller.abort(reason);
    await assert.rejects(opening, reason);
    assert.deepEqual(await begun(), []);
  });
});

async function* once1(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** The gocryptfs of the tool kit, as a file. */
async function jobsGocryptfs(directory: string): Promise<string> {
  const docker = await connectDocker();
  const image = await ensurePrograms({ docker, progress: () => {} });
  const container = await docker.createContainer({ Image: image, Cmd: ['none'] });
  const path = join(directory, 'gocryptfs');
  try {
    const archive = await container.getArchive({ path: '/programs/gocryptfs' });
    for await (const entry of readTar(Readable.from(archive))) await writeFile(path, entry.body, { mode: 0o755 });
  } finally {
    await container.remove();
  }
  return path;
}

/** Kills the gocryptfs that serves a mount point, as the end of a node would. */
function kill(mountPoint: string): void {
  const listed = execFileSync('ps', ['-eo', 'pid=,args='], { encoding: 'utf8' });
  const line = listed.split('\n').find((text) => text.includes('gocryptfs') && text.endsWith(` ${mountPoint}`));
  process.kill(Number(line?.trim().split(' ')[0]), 'SIGKILL');
}

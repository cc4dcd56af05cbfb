import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { lstat, mkdtemp, readdir, readFile, readlink, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HpcsError } from '../../../src/errors.ts';
import { classifyName } from '../../../src/gocryptfs/names.ts';
import { VolumeTree } from '../../../src/gocryptfs/tree.ts';
import { openVolume } from '../../../src/gocryptfs/volume.ts';
import { openPartialResults, type PartialResults } from '../../../src/job/partial.ts';
import type { SubmittedRecord } from '../../../src/job/store.ts';
import { parseVolumeKey, renderVolumeKey } from '../../../src/job/volume-key.ts';
import { tarOf, type SmallTarEntry } from '../../../src/pack/tar.ts';
import { generateKey } from '../../../src/seal/keys.ts';
import { seal } from '../../../src/seal/seal.ts';
import { Secret } from '../../../src/secret.ts';
import type { RemoteProcess, Transport } from '../../../src/site/transport.ts';

const vectors = fileURLToPath(new URL('../../vectors/gocryptfs', import.meta.url));
const volume = join(vectors, 'volume');
const { signal } = new AbortController();

/** A site that answers what a test says, as one that is not honest could: the last command, tar, gives the archive. */
class HostileSite implements Transport {
  readonly #answers: { stdout: Uint8Array; code: number; stderr: string }[];

  constructor(sealedKey: Uint8Array, archive: Uint8Array, exit: { code?: number; stderr?: string }) {
    this.#answers = [
      { stdout: Buffer.from('0 partial\n'), code: 0, stderr: '' },
      { stdout: sealedKey, code: 0, stderr: '' },
      { stdout: archive, code: exit.code ?? 0, stderr: exit.stderr ?? '' },
    ];
  }

  exec(): RemoteProcess {
    const answer = this.#answers.shift();
    assert.ok(answer !== undefined, 'one command too many');
    const { stdout, code, stderr } = answer;
    return { stdout: once(stdout), finished: Promise.resolve({ code, stderr }), [Symbol.asyncDispose]: async () => {} };
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

describe('partial results of a site that is not honest', () => {
  const job = {
    jobId: '4711',
    name: 'test',
    workdir: '/work',
    authenticationKey: new Secret(randomBytes(32).toString('hex')),
  } as SubmittedRecord;
  let sealedKey: Uint8Array;
  let temporary: string;
  let target: string;
  /** Cipher paths by plain ones, and the volume's entries as an honest site sends them. */
  const paths = new Map<string, string>();
  const own: SmallTarEntry[] = [];
  const rest: SmallTarEntry[] = [];

  before(async () => {
    temporary = await mkdtemp(join(tmpdir(), 'hpcs-partial-'));
    target = join(temporary, 'results');
    const password = new Secret((await readFile(join(vectors, 'password'), 'utf8')).trim());
    const key = await generateKey('age');
    job.resultKey = key.secretKey;
    const content = renderVolumeKey(password, { id: job.jobId, restart: 0 }, job.authenticationKey);
    const parts: Uint8Array[] = [];
    for await (const part of seal(once(content.bytes()), { format: 'age', recipients: [key.publicKey], compress: 'none' }).bytes)
      parts.push(part);
    sealedKey = Buffer.concat(parts);
    await readVolume(password);
  });
  after(() => rm(temporary, { recursive: true, force: true }));
  afterEach(() => rm(target, { recursive: true, force: true }));

  async function readVolume(password: Secret): Promise<void> {
    const configuration = await readFile(join(volume, 'gocryptfs.conf'), 'utf8');
    const tree = new VolumeTree(openVolume(configuration, password));
    own.push({ name: './gocryptfs.conf', content: configuration });
    const found = await readdir(volume, { recursive: true });
    for (const name of found.filter((one) => /\.(diriv|name)$/.test(one))) {
      const content = await readFile(join(volume, name));
      own.push({ name: `./${name}`, content });
      if (name.endsWith('.name')) tree.addLongName(name, content);
      else tree.addDirectoryIv(name.replace(/\/?gocryptfs\.diriv$/, ''), content);
    }
    for (const path of found.filter((one) => /^[^.]+$|longname\.[^.]+$/.test(one))) {
      if (classifyName(path.split('/').at(-1) ?? '').kind === 'own') continue;
      paths.set(tree.resolveDirectory(path).toString(), path);
      rest.push(await entryOf(`./${path}`));
    }
  }

  async function entryOf(name: string): Promise<SmallTarEntry> {
    const place = join(volume, name);
    const found = await lstat(place);
    if (found.isSymbolicLink()) return { name, type: 'symlink', linkname: await readlink(place) };
    return found.isDirectory()
      ? { name: `${name}/`, type: 'directory' }
      : { name, content: await readFile(place), mode: found.mode & 0o777 };
  }

  const path = (plain: string): string => `./${paths.get(plain) ?? 'missing'}`;
  const entry = (plain: string): SmallTarEntry =>
    rest.find((one) => one.name.replace(/\/$/, '') === path(plain)) as SmallTarEntry;

  function open(entries: readonly SmallTarEntry[], exit: { code?: number; stderr?: string } = {}): Promise<PartialResults> {
    return openPartialResults(new HostileSite(sealedKey, tarOf(entries), exit), job, target, { signal });
  }

  async function refuses(
    code: string,
    entries: readonly SmallTarEntry[],
    exit: { code?: number; stderr?: string } = {},
  ): Promise<HpcsError> {
    let caught: unknown;
    await open(entries, exit).catch((error: unknown) => (caught = error));
    assert.ok(caught instanceof HpcsError, String(caught));
    assert.equal(caught.code, code, caught.message);
    assert.ok(caught.suggestion, `no next step: ${caught.message}`);
    assert.deepEqual(await readdir(temporary), []);
    return caught;
  }

  it('are whole when it sends everything', async () => {
    const results = await open([...own, ...rest]);
    assert.deepEqual({ ...results, files: 0 }, { directory: target, files: 0, damaged: [], altered: [], unread: [] });
    assert.equal((await readdir(target, { recursive: true })).length, paths.size);
  });

  it('never appear outside of their directory', async () => {
    const content = entry('program').content as Uint8Array;
    const name = path('program').slice(2);
    for (const bad of [
      `../${name}`,
      `./../../${name}`,
      `/${name}/x`,
      `/tmp/${name}`,
      `./${name}/../../../${name}`,
      './.ssh/authorized_keys',
      './..',
      `./..${name}`,
      './plain name',
    ]) {
      const results = await open([...own, { name: bad, content }, entry('read-only')]);
      assert.deepEqual(await readdir(target), ['read-only'], bad);
      assert.ok(results.altered.length <= 1);
      assert.deepEqual(await readdir(temporary), ['results']);
      await rm(target, { recursive: true });
    }
  });

  it('are refused with devices, FIFOs, hard links, and entries that occur twice', async () => {
    for (const type of ['fifo', 'character', 'block', 'hardlink'] as const) {
      await refuses('archive-unsafe', [...own, entry('read-only'), { name: path('program'), type, linkname: path('read-only') }]);
    }
    await refuses('archive-unsafe', [...own, entry('program'), entry('program')]);
    await refuses('archive-unsafe', [
      ...own,
      entry('links'),
      entry('links/relative'),
      { ...entry('program'), name: path('links/relative') },
    ]);
  });

  it('are never written through a link', async () => {
    const { linkname = '' } = entry('links/absolute');
    const link: SmallTarEntry = { name: path('sizes'), type: 'symlink', linkname };
    await refuses('archive-unsafe', [...own, link, entry('sizes/1')]);
    await refuses('archive-unsafe', [...own, entry('sizes'), entry('sizes/1'), link]);
  });

  it('have no set-id bits', async () => {
    await open([...own, { ...entry('program'), mode: 0o6755 }]);
    assert.equal((await stat(join(target, 'program'))).mode & 0o7777, 0o755);
  });

  it('do not show whether the site exchanged whole files, which a manifest would', async () => {
    const exchanged = { ...entry('sizes/4096'), name: path('sizes/8192') };
    const results = await open([...own, entry('sizes'), exchanged]);
    assert.deepEqual(results.altered, []);
    assert.equal((await stat(join(target, 'sizes/8192'))).size, 4096);
  });

  it('are refused without the configuration in the first place, or with one that is too long', async () => {
    await refuses('volume-invalid', []);
    await refuses('volume-invalid', rest);
    await refuses('answer-too-long', [{ name: './gocryptfs.conf', content: ' '.repeat(100_000) }, ...rest]);
  });

  it('are refused when the archive is cut or tar failed', async () => {
    const whole = tarOf([...own, ...rest]);
    for (const length of [0, 100, 700, Math.floor(whole.length / 2)]) {
      const site = new HostileSite(sealedKey, whole.subarray(0, length), {});
      await assert.rejects(openPartialResults(site, job, target, { signal }), { code: 'archive-invalid', suggestion: /again/ });
    }
    const error = await refuses('volume-unreadable', own, { code: 2, stderr: 'tar: a\ntar: Exiting with failure status\n' });
    assert.match(error.message, /Exiting with failure/);
  });

  it('tell what tar could not read', async () => {
    const results = await open([...own, entry('program')], { code: 1, stderr: 'tar: x: file changed as we read it\n' });
    assert.deepEqual(results.unread, ['tar: x: file changed as we read it']);
  });
});

describe('the key of an output volume', () => {
  const password = new Secret('0123456789abcdef'.repeat(4));
  const authentication = new Secret('a'.repeat(64));
  const run = { id: '4711', restart: 0 };

  it('is the one that the job rendered', () => {
    assert.equal(parseVolumeKey(renderVolumeKey(password, run, authentication), run, authentication).reveal(), password.reveal());
  });

  it('is refused from another job, another run, another key, or altered', () => {
    const rendered = renderVolumeKey(password, run, authentication);
    const forged = (content: Secret, of = run, key = authentication): void =>
      assert.throws(() => parseVolumeKey(content, of, key), { code: 'volume-key-forged', kind: 'integrity' });
    forged(rendered, { id: '4712', restart: 0 });
    forged(rendered, { id: '4711', restart: 1 });
    forged(rendered, run, new Secret('b'.repeat(64)));
    const text = rendered.reveal();
    for (const altered of [`1${text.slice(1)}`, text.slice(0, 64), text.trim(), `${text} `, '', password.reveal()])
      forged(new Secret(altered));
  });
});

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

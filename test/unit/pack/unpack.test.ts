import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HpcsError } from '../../../src/errors.ts';
import { pack, scan } from '../../../src/pack/pack.ts';
import { readTar, tarOf, type SmallTarEntry } from '../../../src/pack/tar.ts';
import { unpack } from '../../../src/pack/unpack.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';
import { writePlainTree } from '../../support/plain-tree.ts';

describe('unpack', () => {
  let directory: string;
  let target: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'unpack-'));
    target = join(directory, 'target');
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  const unpackAll = (entries: SmallTarEntry[], pieces = [1000]) => unpack(inPieces(tarOf(entries), pieces), target);

  it('undoes pack', async () => {
    const tree = join(directory, 'tree');
    await mkdir(tree);
    await writePlainTree(tree);
    await mkdir(join(tree, 'closed'), { mode: 0o500 });
    await writeFile(Buffer.concat([Buffer.from(`${tree}/latin `), Buffer.from([0xe9, 0xff])]), 'a name that is no UTF-8');
    execFileSync('ln', [join(tree, 'program'), join(tree, 'program again')]);
    const archive = await collect(pack(tree));
    const { entries, bytes } = await scan(tree);
    assert.deepEqual(await unpack(inPieces(archive, [70_000]), target), { entries, bytes });
    execFileSync('diff', ['-r', '--no-dereference', tree, join(target, 'tree')]);
    assert.equal((await stat(join(target, 'tree', 'program'))).nlink, 2);
    // Owners are those of whoever unpacks; node:fs sets times to the microsecond.
    const described = async (bytes: Buffer): Promise<object[]> => {
      const found = [];
      for await (const { name, type, mode, mtime, linkname, size } of readTar(inPieces(bytes)))
        found.push({ name, type, mode, mtime: type === 'symlink' ? 0 : Math.floor(mtime), linkname, size });
      return found;
    };
    assert.deepEqual(await described(await collect(pack(join(target, 'tree')))), await described(archive));
    await chmod(join(tree, 'closed'), 0o700);
  });

  it("unpacks GNU tar's archives, also of the directory itself", async () => {
    const tree = join(directory, 'tree');
    await mkdir(tree);
    await writePlainTree(tree);
    await unpack(inPieces(execFileSync('tar', ['-C', tree, '-c', '.'])), target);
    execFileSync('diff', ['-r', '--no-dereference', tree, target]);
  });

  it('makes the directories that an archive leaves out', async () => {
    await unpackAll([{ name: './a/b/c', content: 'x', mode: 0o640 }]);
    assert.equal(await readFile(join(target, 'a/b/c'), 'utf8'), 'x');
    assert.equal((await stat(join(target, 'a'))).mode & 0o7777, 0o755);
    assert.equal((await stat(join(target, 'a/b/c'))).mode & 0o7777, 0o640);
  });

  it('drops set-id and sticky bits, and keeps permissions and times', async () => {
    await unpackAll([
      { name: 'd', type: 'directory', mode: 0o3751, mtime: 1000 },
      { name: 'd/program', content: 'x', mode: 0o6755, mtime: 2000 },
    ]);
    assert.equal((await stat(join(target, 'd'))).mode & 0o7777, 0o751);
    assert.equal((await stat(join(target, 'd'))).mtimeMs, 1_000_000);
    assert.equal((await stat(join(target, 'd/program'))).mode & 0o7777, 0o755);
    assert.equal((await stat(join(target, 'd/program'))).mtimeMs, 2_000_000);
  });

  it('keeps links as they are, and a link to a link', async () => {
    await unpackAll([
      { name: 'up', type: 'symlink', linkname: '../../outside' },
      { name: 'absolute', type: 'symlink', linkname: '/etc/passwd' },
      { name: 'same', type: 'hardlink', linkname: 'up' },
    ]);
    assert.equal(await readlink(join(target, 'up')), '../../outside');
    assert.equal(await readlink(join(target, 'absolute')), '/etc/passwd');
    assert.equal(await readlink(join(target, 'same')), '../../outside');
  });

  const link = (linkname: string): SmallTarEntry => ({ name: 'link', type: 'symlink', linkname });
  const hostile: Record<string, SmallTarEntry[]> = {
    'an absolute path': [{ name: '/tmp/x', content: 'x' }],
    'a path that leads out': [{ name: '../x', content: 'x' }],
    'a path that leads out further down': [{ name: 'a/../../x', content: 'x' }],
    'a path that leads in and out': [{ name: 'a/../b', content: 'x' }],
    'a directory that leads out': [{ name: '../d', type: 'directory' }],
    'a file under a link': [link('/tmp'), { name: 'link/x', content: 'x' }],
    'a file under a link, with dots': [link('.'), { name: './link/./x', content: 'x' }],
    'a directory in place of a link': [link('/tmp'), { name: 'link', type: 'directory' }],
    'a directory under a link': [link('/tmp'), { name: 'link/d/e', type: 'directory' }],
    'a link under a link': [link('/tmp'), { name: 'link/l', type: 'symlink', linkname: 'x' }],
    'a hard link under a link': [{ name: 'f' }, link('/tmp'), { name: 'link/l', type: 'hardlink', linkname: 'f' }],
    'a file over a link': [link('/tmp/x'), { name: 'link', content: 'x' }],
    'a link over a file': [{ name: 'link', content: 'x' }, link('/tmp/x')],
    'a link over a directory': [{ name: 'link/a' }, link('/tmp')],
    'a link over a link': [link('a'), link('b')],
    'a file twice': [{ name: 'f', content: 'x' }, { name: 'f', content: 'y' }], // prettier-ignore
    'a file over a directory': [{ name: 'f', type: 'directory' }, { name: 'f' }],
    'a directory over a file': [{ name: 'f' }, { name: 'f', type: 'directory' }],
    'a file under a file': [{ name: 'f' }, { name: 'f/g' }],
    'a hard link to outside': [{ name: 'h', type: 'hardlink', linkname: '/etc/passwd' }],
    'a hard link that leads out': [{ name: 'h', type: 'hardlink', linkname: '../../../etc/passwd' }],
    'a hard link to nothing': [{ name: 'h', type: 'hardlink', linkname: 'none' }],
    'a hard link to a directory': [
      { name: 'd', type: 'directory' },
      { name: 'h', type: 'hardlink', linkname: 'd' },
    ],
    'a hard link through a link': [link('/etc'), { name: 'h', type: 'hardlink', linkname: 'link/passwd' }],
    'a hard link to itself': [{ name: 'h', type: 'hardlink', linkname: 'h' }],
    'a device': [{ name: 'null', type: 'character', devmajor: 1, devminor: 3 }],
    'a block device': [{ name: 'sda', type: 'block', devmajor: 8, devminor: 0 }],
    'a FIFO': [{ name: 'pipe', type: 'fifo' }],
    'a NUL in a name': [{ name: 'a\0b', pax: new Map([['path', Buffer.from('a\0b')]]) }],
    'a file without a name': [{ name: '.', content: 'x' }],
    'our own kind of directory': [{ name: '.', type: 'symlink', linkname: '/tmp' }],
  };
  for (const [name, entries] of Object.entries(hostile)) {
    it(`refuses ${name}, and leaves nothing`, async () => {
      await assert.rejects(unpackAll([{ name: 'first', content: 'x' }, ...entries]), failsWith('integrity', 'archive-unsafe'));
      assert.deepEqual(await readdir(target), []);
      assert.deepEqual(await readdir(directory), ['target']);
    });
  }

  it('never overwrites', async () => {
    await mkdir(join(target, 'a'), { recursive: true });
    await writeFile(join(target, 'f'), 'mine');
    await symlink('nowhere', join(target, 'l'));
    for (const name of ['f', 'a', 'a/b', 'l', 'l/x'])
      await assert.rejects(unpackAll([{ name, content: 'x' }]), failsWith('local', 'file-exists'), name);
    assert.deepEqual((await readdir(target)).sort(), ['a', 'f', 'l']);
    assert.equal(await readFile(join(target, 'f'), 'utf8'), 'mine');
    await unpackAll([{ name: 'other', content: 'x' }]);
    assert.deepEqual((await readdir(target)).sort(), ['a', 'f', 'l', 'other']);
  });

  it('leaves nothing of an archive that ends early, or of a stream that fails', async () => {
    const archive = tarOf([
      { name: 'a', content: 'x' },
      { name: 'b', content: 'y'.repeat(2000) },
    ]);
    for (const size of [600, 1024, 2000, archive.length - 1024])
      await assert.rejects(unpack(inPieces(archive.subarray(0, size)), target), failsWith('integrity', 'archive-invalid'));
    const failure = new HpcsError('integrity', 'corrupt', 'damaged');
    const failing = async function* (): AsyncGenerator<Uint8Array> {
      yield archive;
      throw failure;
    };
    await assert.rejects(unpack(failing(), target), failure);
    assert.deepEqual(await readdir(target), []);
  });

  it('shows nothing before all is there', async () => {
    const archive = tarOf([{ name: 'a', content: 'x' }]);
    const watched = async function* (): AsyncGenerator<Uint8Array> {
      yield archive;
      const seen = await readdir(target);
      assert.equal(seen.length, 1);
      assert.equal((await lstat(join(target, seen[0] ?? ''))).mode & 0o777, 0o700);
      assert.ok(!seen.includes('a'));
    };
    assert.deepEqual(await unpack(watched(), target), { entries: 1, bytes: 1 });
    assert.deepEqual(await readdir(target), ['a']);
  });

  it('stops at its signal and leaves nothing', async () => {
    const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
    const abort = new AbortController();
    const archive = tarOf([
      { name: 'a', content: 'x' },
      { name: 'b', content: 'y' },
    ]);
    // The first entry is there, the second one comes.
    const stopped = async function* (): AsyncGenerator<Uint8Array> {
      yield archive.subarray(0, 1024);
      abort.abort(reason);
      yield archive.subarray(1024, 2048);
      assert.fail('it reads on');
    };
    await assert.rejects(unpack(stopped(), target, { signal: abort.signal }), reason);
    assert.deepEqual(await readdir(target), []);
  });

  it('tells of a directory where it may not write, and of a full disk', async () => {
    await writeFile(join(directory, 'file'), '');
    await assert.rejects(unpack(inPieces(tarOf([])), join(directory, 'file')), failsWith('local', 'write-failed'));
    // A file system of one megabyte, in a mount namespace of its own.
    const script = `import { unpack } from ${JSON.stringify(new URL('../../../src/pack/unpack.ts', import.meta.url).href)};
      import { tarOf } from ${JSON.stringify(new URL('../../../src/pack/tar.ts', import.meta.url).href)};
      import { readdirSync } from 'node:fs';
      const archive = tarOf([{ name: 'large', content: Buffer.alloc(3_000_000) }]);
      await unpack((async function* () { yield archive; })(), '/mnt').catch((error) => console.log(error.kind, error.code, readdirSync('/mnt').length));`;
    const shell = 'mount -t tmpfs -o size=1m none /mnt && exec "$0" --input-type=module -e "$1"';
    const said = execFileSync('unshare', ['-Urm', 'sh', '-c', shell, process.execPath, script]).toString();
    assert.equal(said, 'local disk-full 0\n');
  });
});

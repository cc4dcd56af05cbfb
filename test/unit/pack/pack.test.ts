import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs, { appendFileSync, renameSync, truncateSync, unlinkSync, utimesSync } from 'node:fs';
import { chmod, link, mkdir, mkdtemp, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { HpcsError } from '../../../src/errors.ts';
import { checkInput, pack, scan } from '../../../src/pack/pack.ts';
import { readTar } from '../../../src/pack/tar.ts';
import { inPlaceOf } from '../../support/built-in.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';
import { writePlainTree } from '../../support/plain-tree.ts';

describe('pack', () => {
  let directory: string;
  let tree: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'pack-'));
    tree = join(directory, 'tree');
    await mkdir(tree);
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  const tar = (archive: Buffer, ...args: string[]): string =>
    execFileSync('tar', ['-C', directory, '-f', '-', ...args], { input: archive, env: { LC_ALL: 'C.UTF-8' } }).toString();
  const names = async (archive: Buffer): Promise<string[]> => {
    const found: string[] = [];
    for await (const { name } of readTar(inPieces(archive))) found.push(name);
    return found;
  };

  it('makes what GNU tar finds equal to the tree', async () => {
    await writePlainTree(tree);
    await link(join(tree, 'program'), join(tree, 'program again'));
    await writeFile(Buffer.concat([Buffer.from(`${tree}/latin `), Buffer.from([0xe9, 0xff])]), 'a name that is no UTF-8');
    const archive = await collect(pack(tree));
    assert.equal(tar(archive, '--compare'), '');
    assert.equal((await scan(tree)).archive, archive.length);
    await rm(tree, { recursive: true });
    tar(archive, '-x');
    const again = await collect(pack(tree));
    assert.ok(again.equals(archive), 'the tree that GNU tar unpacked packs to the same archive');
  });

  it('packs large files, of sizes around a block', async () => {
    const mib = 1024 * 1024;
    const sizes = [mib - 513, mib - 512, mib - 511, mib, mib + 1, 5 * mib + 3];
    for (const size of sizes) await writeFile(join(tree, `${size}`), Buffer.alloc(size, `${size} `));
    const archive = await collect(pack(tree));
    assert.equal(tar(archive, '--compare'), '');
    const { entries, bytes, archive: size } = await scan(tree);
    assert.deepEqual({ entries, size }, { entries: 7, size: archive.length });
    assert.equal(bytes, sizes.reduce((sum, size) => sum + size, 0)); // prettier-ignore
  });

  it('packs a single file, under its name', async () => {
    await writeFile(join(tree, '-data set'), 'x');
    assert.deepEqual(await names(await collect(pack(join(tree, '-data set')))), ['-data set']);
    assert.deepEqual(await scan(join(tree, '-data set')), { entries: 1, bytes: 1, archive: 2048 });
  });

  it('packs an empty directory', async () => {
    assert.deepEqual(await names(await collect(pack(tree))), ['tree/']);
    assert.deepEqual(await scan(tree), { entries: 1, bytes: 0, archive: 1536 });
  });

  it('names the top of the archive as the path says, or as it is told', async () => {
    await writeFile(join(tree, 'a'), 'x');
    const before = process.cwd();
    process.chdir(tree);
    try {
      for (const path of ['.', './', '../tree', tree, `${tree}/`, '../tree/.'])
        assert.deepEqual(await names(await collect(pack(path))), ['tree/', 'tree/a'], path);
    } finally {
      process.chdir(before);
    }
    assert.deepEqual(await names(await collect(pack(tree, { name: 'output' }))), ['output/', 'output/a']);
    await symlink('tree', join(directory, 'to tree'));
    assert.deepEqual(await names(await collect(pack(join(directory, 'to tree')))), ['to tree/', 'to tree/a']);
    await assert.rejects(collect(pack('/')), failsWith('usage', 'root-directory'));
    await assert.rejects(collect(pack('')), failsWith('usage', 'no-input'));
    assert.throws(() => checkInput(''), failsWith('usage', 'no-input'));
  });

  it('names the special file that it cannot pack', async () => {
    execFileSync('mkfifo', [join(tree, 'pipe')]);
    for (const made of [collect(pack(tree)), scan(tree)]) {
      await assert.rejects(
        made,
        (error) => failsWith('local', 'special-file')(error) && String(error).includes('/tree/pipe is a FIFO'),
      );
    }
    await rm(join(tree, 'pipe'));
    const server = createServer().listen(join(tree, 'socket'));
    await new Promise((resolve) => server.once('listening', resolve));
    try {
      await assert.rejects(scan(tree), failsWith('local', 'special-file'));
    } finally {
      server.close();
    }
  });

  it('names what does not exist', async () => {
    for (const made of [collect(pack(join(tree, 'none'))), scan(join(tree, 'none'))])
      await assert.rejects(made, (error) => failsWith('local', 'unreadable')(error) && String(error).endsWith('none: ENOENT'));
  });

  it('names the file that it cannot read, before anything is packed', async function () {
    await mkdir(join(tree, 'locked'));
    await writeFile(join(tree, 'locked', 'in'), 'x');
    await writeFile(join(tree, 'secret'), 'x');
    // Root may read everything, so another user tries.
    const script = `import { pack, scan } from ${JSON.stringify(new URL('../../../src/pack/pack.ts', import.meta.url).href)};
      const tell = (error) => console.log(error.kind, error.code, error.message);
      await scan(process.argv[1]).catch(tell);
      try { for await (const block of pack(process.argv[1])); } catch (error) { tell(error); }`;
    const attempt = (): string => {
      const asNobody = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
      return execFileSync(process.execPath, ['--input-type=module', '-e', script, tree], {
        ...asNobody,
        cwd: '/',
        env: {},
      }).toString();
    };
    await chmod(directory, 0o755);
    assert.equal(attempt(), '');
    await chmod(join(tree, 'secret'), 0);
    const refused = `local unreadable cannot read ${tree}/secret: EACCES\n`;
    assert.equal(attempt(), refused + refused);
    await chmod(join(tree, 'locked'), 0);
    const refusedDirectory = `local unreadable cannot read ${tree}/locked: EACCES\n`;
    assert.equal(attempt(), refusedDirectory + refusedDirectory);
    await chmod(join(tree, 'locked'), 0o755);
  });

  describe('while files change', () => {
    const mib = 1024 * 1024;
    const changes: Record<string, { change: (file: string) => void; message: RegExp }> = {
      grows: { change: (file) => appendFileSync(file, 'more'), message: /grew while/ },
      shrinks: { change: (file) => truncateSync(file, 3 * mib), message: /shrank while/ },
      'is altered': { change: (file) => utimesSync(file, 1, 1), message: /changed while/ },
    };
    for (const [name, { change, message }] of Object.entries(changes)) {
      it(`fails when a file ${name}, and names it`, async () => {
        const file = join(tree, 'file\nname');
        await writeFile(file, Buffer.alloc(4 * mib, 'x'));
        const packing = pack(tree);
        await packing.next();
        change(file);
        await assert.rejects(collect(packing), (error) => {
          failsWith('local', 'source-changed')(error);
          assert.match(String(error), message);
          assert.ok(String(error).includes('file\\nname'));
          return true;
        });
      });
    }

    it('fails when a file vanishes, and names it', async () => {
      await writeFile(join(tree, 'a'), Buffer.alloc(2 * mib));
      await writeFile(join(tree, 'b'), 'x');
      const packing = pack(tree);
      await packing.next();
      unlinkSync(join(tree, 'b'));
      await assert.rejects(
        collect(packing),
        (error) => failsWith('local', 'source-changed')(error) && /tree\/b vanished/.test(String(error)),
      );
    });

    /** Packs, and lets something happen once a file was looked at, just before it is opened. */
    const packDespite = async (file: string, change: () => void): Promise<void> => {
      const { openSync } = fs;
      let left = 1;
      using _ = inPlaceOf(fs, 'openSync', (path, ...how) => {
        if (path === file && left-- > 0) change();
        return openSync(path, ...how);
      });
      await collect(pack(tree));
    };

    it('fails when a file is replaced between the look and the opening', async () => {
      const file = join(tree, 'a');
      await writeFile(file, 'x');
      // Beside the other while that is there: it must not get the number of an inode that is free again.
      await writeFile(join(directory, 'new'), 'x');
      const replace = (): void => renameSync(join(directory, 'new'), file);
      await assert.rejects(packDespite(file, replace), failsWith('local', 'source-changed'));
    });

    it('does not follow or wait for what took a file’s place', async () => {
      const file = join(tree, 'a');
      for (const swap of [['ln', '-s', '/etc/passwd'], ['mkfifo']]) {
        await writeFile(file, 'x');
        const replace = (): void => {
          unlinkSync(file);
          execFileSync(swap[0] ?? '', [...swap.slice(1), file]);
        };
        await assert.rejects(packDespite(file, replace), failsWith('local', 'source-changed', 'unreadable'));
        await rm(file);
      }
    });
  });

  it('stops at its signal', async () => {
    await writeFile(join(tree, 'a'), Buffer.alloc(8 * 1024 * 1024));
    const abort = new AbortController();
    const packing = pack(tree, { signal: abort.signal });
    await packing.next();
    const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
    abort.abort(reason);
    await assert.rejects(collect(packing), reason);
    await assert.rejects(scan(tree, { signal: abort.signal }), reason);
  });

  it('is the same for the same tree, whatever the order on disk', async () => {
    for (const name of ['b', 'a', 'c']) await writeFile(join(tree, name), name);
    for (const name of ['b', 'a', 'c', '.']) await utimes(join(tree, name), 1000, 1000);
    const first = await collect(pack(tree));
    assert.deepEqual(await names(first), ['tree/', 'tree/a', 'tree/b', 'tree/c']);
    assert.equal(basename(tree), 'tree');
  });
});

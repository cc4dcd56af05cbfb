import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Copy, keepOnly } from '../../src/keep.ts';

async function* parts(...texts: string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield Buffer.from(text);
}

/** Bytes that end in an error. */
async function* failing(error: Error): AsyncGenerator<Uint8Array> {
  yield Buffer.from('one');
  throw error;
}

async function text(bytes: AsyncIterable<Uint8Array>): Promise<string> {
  return Buffer.concat(await Array.fromAsync(bytes)).toString();
}

describe('kept copy', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-keep-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  it('is of the bytes that go through', async () => {
    const file = join(directory, 'new/copy');
    await using copy = await Copy.begin(file);
    assert.equal(await text(copy.of(parts('one', '', 'two'))), 'onetwo');
    await copy.replace();
    assert.equal(await readFile(file, 'utf8'), 'onetwo');
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.deepEqual(await readdir(join(directory, 'new')), ['copy']);
  });

  it('appears when it is named, under the first name that is free, and replaces nothing', async () => {
    const kept = async (content: string): Promise<string> => {
      await using copy = await Copy.begin(join(directory, 'copy.tgz'));
      await text(copy.of(parts(content)));
      return await copy.nameAs(['copy.tgz', `copy-${content}.tgz`]);
    };
    assert.equal(await kept('one'), join(directory, 'copy.tgz'));
    assert.equal(await kept('two'), join(directory, 'copy-two.tgz'));
    await symlink('nowhere', join(directory, 'copy-three.tgz'));
    await assert.rejects(kept('three'), { code: 'write-failed', message: `cannot write ${directory}/copy.tgz: EEXIST` });
    assert.equal(await readFile(join(directory, 'copy.tgz'), 'utf8'), 'one');
    assert.equal(await readFile(join(directory, 'copy-two.tgz'), 'utf8'), 'two');
    assert.deepEqual((await readdir(directory)).toSorted(), ['copy-three.tgz', 'copy-two.tgz', 'copy.tgz']);
  });

  it('is gone when it was given no name', async () => {
    const file = join(directory, 'copy');
    await writeFile(file, 'earlier');
    {
      await using copy = await Copy.begin(file);
      await text(copy.of(parts('one')));
      assert.equal((await readdir(directory)).length, 2);
    }
    assert.deepEqual(await readdir(directory), ['copy']);
    assert.equal(await readFile(file, 'utf8'), 'earlier');
  });

  it('may be empty', async () => {
    await keepOnly(parts(), join(directory, 'copy'));
    assert.equal(await readFile(join(directory, 'copy'), 'utf8'), '');
  });

  it('is not there before the last byte, nor after bytes that failed, and an earlier one stays', async () => {
    const file = join(directory, 'copy');
    await writeFile(file, 'earlier');
    const broken = new Error('broken');
    await assert.rejects(keepOnly(failing(broken), file), (error) => error === broken);
    {
      await using copy = await Copy.begin(file);
      for await (const _part of copy.of(parts('one', 'two'))) break;
    }
    assert.equal(await readFile(file, 'utf8'), 'earlier');
    assert.deepEqual(await readdir(directory), ['copy']);
  });

  it('takes the place of a link, and leaves alone what the link names', async () => {
    await writeFile(join(directory, 'victim'), 'old');
    await symlink('victim', join(directory, 'copy'));
    await keepOnly(parts('new'), join(directory, 'copy'));
    assert.equal(await readFile(join(directory, 'victim'), 'utf8'), 'old');
  });

  it('may be made by two at once', async () => {
    const file = join(directory, 'copy');
    await Promise.all([keepOnly(parts('one'), file), keepOnly(parts('one'), file)]);
    assert.equal(await readFile(file, 'utf8'), 'one');
  });

  it('names the file that cannot be written', async () => {
    await mkdir(join(directory, 'copy'));
    const expected = { code: 'write-failed', exitCode: 3 };
    await assert.rejects(keepOnly(parts('one'), join(directory, 'copy')), {
      ...expected,
      message: `cannot write ${directory}/copy: EISDIR`,
    });
    await writeFile(join(directory, 'file'), '');
    await assert.rejects(keepOnly(parts('one'), join(directory, 'file/copy')), {
      ...expected,
      message: `cannot write ${directory}/file/copy: EEXIST`,
    });
    assert.deepEqual((await readdir(directory)).toSorted(), ['copy', 'file']);
  });
});

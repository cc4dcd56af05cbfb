import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { keepCopy, keepOnly } from '../../src/keep.ts';

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
    assert.equal(await text(keepCopy(parts('one', '', 'two'), file)), 'onetwo');
    assert.equal(await readFile(file, 'utf8'), 'onetwo');
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.deepEqual(await readdir(join(directory, 'new')), ['copy']);
  });

  it('is not made where none is wanted', async () => {
    assert.equal(await text(keepCopy(parts('one'), undefined)), 'one');
    assert.deepEqual(await readdir(directory), []);
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
    for await (const _part of keepCopy(parts('one', 'two'), file)) {
      assert.equal(await readFile(file, 'utf8'), 'earlier');
      break;
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

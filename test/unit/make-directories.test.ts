import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeDirectories } from '../../src/make-directories.ts';

describe('making directories', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-make-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  it('makes what is missing, with the mode', async () => {
    await makeDirectories(join(directory, 'a/b/c'), 0o700);
    for (const path of ['a', 'a/b', 'a/b/c']) assert.equal((await stat(join(directory, path))).mode & 0o777, 0o700, path);
  });

  it('leaves what is there as it is, links to directories too', async () => {
    await mkdir(join(directory, 'a'), { mode: 0o755 });
    await symlink('a', join(directory, 'link'));
    await makeDirectories(join(directory, 'link/b'), 0o700);
    await makeDirectories(join(directory, 'link/b'), 0o700);
    assert.equal((await stat(join(directory, 'a'))).mode & 0o777, 0o755);
    await makeDirectories('/');
  });

  it('says what is in the way', async () => {
    await writeFile(join(directory, 'file'), '');
    await assert.rejects(makeDirectories(join(directory, 'file')), { code: 'EEXIST' });
    await assert.rejects(makeDirectories(join(directory, 'file/below/it')), { code: 'ENOTDIR' });
    await symlink('nowhere', join(directory, 'link'));
    await assert.rejects(makeDirectories(join(directory, 'link')), { code: 'EEXIST' });
  });

  it('ends where nothing can be made', async () => {
    await assert.rejects(makeDirectories('/proc/hpcs/below'), { code: 'ENOENT' });
  });
});

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { leaveOutSpecialFiles } from '../../../src/node/special-files.ts';
import { pack } from '../../../src/pack/pack.ts';
import { collect } from '../../support/streams.ts';

describe('special files in results', () => {
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-special-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  it('are left out and named, and nothing else is touched', async () => {
    await mkdir(join(directory, 'deep'));
    await writeFile(join(directory, 'deep/result'), 'kept');
    await symlink('nowhere', join(directory, 'link'));
    execFileSync('mkfifo', [join(directory, 'deep/pi\npe')]);
    const server = createServer().listen(join(directory, 'socket'));
    await new Promise((resolve) => server.once('listening', resolve));
    assert.equal(await leaveOutSpecialFiles(directory), 2);
    server.close();
    const named = (await readFile(join(directory, 'left_out'), 'utf8')).trimEnd().split('\n').map((line) => JSON.parse(line) as string); // prettier-ignore
    assert.deepEqual(named.toSorted(), ['deep/pi\npe', 'socket']);
    assert.equal(await readFile(join(directory, 'deep/result'), 'utf8'), 'kept');
    assert.ok((await lstat(join(directory, 'link'))).isSymbolicLink());
    await collect(pack(directory));
  });

  it('that are none leave no trace', async () => {
    await writeFile(join(directory, 'result'), 'x');
    assert.equal(await leaveOutSpecialFiles(directory), 0);
    await assert.rejects(lstat(join(directory, 'left_out')), { code: 'ENOENT' });
  });

  it('do not cost a file of the application that has the name of the list', async () => {
    await writeFile(join(directory, 'left_out'), 'mine');
    execFileSync('mkfifo', [join(directory, 'pipe')]);
    await leaveOutSpecialFiles(directory);
    assert.equal(await readFile(join(directory, 'left_out'), 'utf8'), 'mine');
    assert.equal(await readFile(join(directory, 'left_out.hpcs'), 'utf8'), '"pipe"\n');
  });

  it('are named in no file that a link of the application leads to', async () => {
    const victim = `${directory}-victim`;
    await writeFile(victim, 'whole');
    await symlink(victim, join(directory, 'left_out'));
    await symlink(`${victim}-new`, join(directory, 'left_out.hpcs'));
    execFileSync('mkfifo', [join(directory, 'pipe')]);
    await leaveOutSpecialFiles(directory);
    assert.equal(await readFile(victim, 'utf8'), 'whole');
    await rm(victim);
    await assert.rejects(lstat(`${victim}-new`), { code: 'ENOENT' });
    const [beside = ''] = (await readdir(directory)).filter((name) => /^left_out\.hpcs\.[0-9a-f]{16}$/.test(name));
    assert.equal(await readFile(join(directory, beside), 'utf8'), '"pipe"\n');
  });

  it('are found whatever the bytes of names, theirs and those of directories', async () => {
    const odd = Buffer.concat([Buffer.from(`${directory}/odd`), Buffer.of(0xff)]);
    await mkdir(odd);
    // As arguments of a program, such bytes would be lost.
    execFileSync('sh', ['-c', `cd ${directory}/odd* && mkfifo "$(printf 'p\\376')"`]);
    assert.equal(await leaveOutSpecialFiles(directory), 1);
    assert.deepEqual(await readdir(odd), []);
    assert.equal(await readFile(join(directory, 'left_out'), 'utf8'), '"odd\\udcff/p\\udcfe"\n');
  });
});

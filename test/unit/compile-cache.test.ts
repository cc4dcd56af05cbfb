import assert from 'node:assert/strict';
import { chmod, chown, mkdir, mkdtemp, readdir, rm, stat, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hpcsOk } from '../support/cli.ts';

describe('compiled code', () => {
  let home: string;
  beforeEach(async () => {
    home = await mkdtemp(join(tmpdir(), 'hpcs-cache-'));
  });
  afterEach(() => rm(home, { recursive: true }));

  const start = (env: Record<string, string>): Promise<unknown> =>
    hpcsOk(['--version'], { env: { XDG_CACHE_HOME: '', HOME: '', ...env }, cwd: home });
  const kept = async (directory: string): Promise<number> => {
    const found = await readdir(directory, { recursive: true, withFileTypes: true });
    return found.filter((entry) => entry.isFile()).length;
  };

  it('is kept where only its owner may go', async () => {
    await start({ HOME: home });
    const code = join(home, '.cache/hpcs/code');
    assert.equal((await stat(code)).mode & 0o777, 0o700);
    assert.ok((await kept(code)) > 5);
  });

  it('is kept where XDG says', async () => {
    await start({ HOME: join(home, 'home'), XDG_CACHE_HOME: join(home, 'caches') });
    assert.ok((await kept(join(home, 'caches/hpcs/code'))) > 5);
    assert.deepEqual(await readdir(home), ['caches']);
  });

  for (const [what, spoil] of [
    ['that others may write to', () => chmod(join(home, '.cache/hpcs/code'), 0o777)],
    ['that others may read', () => chmod(join(home, '.cache/hpcs/code'), 0o755)],
    ['in one that others may write to', () => chmod(join(home, '.cache/hpcs'), 0o775)],
    ['of somebody else', () => chown(join(home, '.cache/hpcs/code'), 4711, 4711)],
    [
      'that a link of somebody else stands for',
      async () => {
        await mkdir(join(home, 'theirs'), { mode: 0o700 });
        await chown(join(home, 'theirs'), 4711, 4711);
        await rm(join(home, '.cache/hpcs/code'), { recursive: true });
        await symlink(join(home, 'theirs'), join(home, '.cache/hpcs/code'));
      },
    ],
  ] as const) {
    it(`is neither taken from nor put into a directory ${what}`, async () => {
      await mkdir(join(home, '.cache/hpcs/code'), { recursive: true, mode: 0o700 });
      await spoil();
      await start({ HOME: home });
      assert.equal(await kept(home), 0);
    });
  }

  it('makes nothing in the home of somebody else', async () => {
    await chown(home, 4711, 4711);
    await start({ HOME: home });
    assert.deepEqual(await readdir(home), []);
  });

  it('is done without where there is no home, or none to write to', async () => {
    await start({});
    await start({ HOME: '.' });
    await start({ HOME: '/proc' });
    // Relative paths lead to where it was started.
    assert.deepEqual(await readdir(home), []);
  });
});

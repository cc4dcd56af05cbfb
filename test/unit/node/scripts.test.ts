import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { copyScripts } from '../../../src/node/scripts.ts';
import type { PinnedScripts } from '../../../src/job/plan.ts';

const sha256 = (content: string): string => createHash('sha256').update(content).digest('hex');

describe('supplementary scripts', () => {
  let shared: string;
  let copy: string;
  beforeEach(async () => {
    const directory = await mkdtemp(join(tmpdir(), 'hpcs-scripts-'));
    shared = join(directory, 'shared');
    copy = join(directory, 'private/copy');
    await mkdir(shared);
  });
  afterEach(() => rm(dirname(shared), { recursive: true }));

  async function pinned(files: Record<string, string>): Promise<PinnedScripts> {
    for (const [path, content] of Object.entries(files)) {
      await mkdir(dirname(join(shared, path)), { recursive: true });
      await writeFile(join(shared, path), content);
    }
    return { directory: shared, files: Object.entries(files).map(([path, content]) => ({ path, sha256: sha256(content) })) };
  }
  const altered = (path: string) => ({
    code: 'script-altered',
    exitCode: 7,
    message: new RegExp(`^the supplementary script ${shared}/${path} is not the one that was submitted: `),
  });

  it('are copied as they were pinned, and those that are to be run named in order', async () => {
    const scripts = await pinned({ 'b.sh': 'b', 'a.sh': 'a', 'data/list.txt': '1', 'with space\n.sh': 'x', 'sub/c.sh': 'c' });
    assert.deepEqual(await copyScripts(scripts, copy), ['a.sh', 'b.sh', 'sub/c.sh', 'with space\n.sh']);
    assert.equal(await readFile(join(copy, 'data/list.txt'), 'utf8'), '1');
    assert.equal((await stat(join(copy, 'a.sh'))).mode & 0o777, 0o500);
    assert.equal((await stat(copy)).mode & 0o777, 0o700);
  });

  it('that came after submission are not copied', async () => {
    const scripts = await pinned({ 'a.sh': 'a' });
    await writeFile(join(shared, 'b.sh'), 'b');
    assert.deepEqual(await copyScripts(scripts, copy), ['a.sh']);
    assert.deepEqual(await readdir(copy), ['a.sh']);
  });

  it('that were altered or removed after submission stop the job', async () => {
    const scripts = await pinned({ 'a.sh': 'a' });
    await writeFile(join(shared, 'a.sh'), 'A');
    await assert.rejects(copyScripts(scripts, copy), altered('a\\.sh'));
    await rm(join(shared, 'a.sh'));
    await assert.rejects(copyScripts(scripts, copy), altered('a\\.sh'));
    await mkdir(join(shared, 'a.sh'));
    await assert.rejects(copyScripts(scripts, copy), altered('a\\.sh'));
  });

  it('may be reached through links, since their content is what was pinned', async () => {
    const scripts = await pinned({ 'real.sh': 'a' });
    await symlink('real.sh', join(shared, 'link.sh'));
    assert.deepEqual(await copyScripts({ ...scripts, files: [{ path: 'link.sh', sha256: sha256('a') }] }, copy), ['link.sh']);
    assert.ok((await stat(join(copy, 'link.sh'))).isFile());
  });

  it('are copied nowhere else, whatever the site called them', async () => {
    await pinned({ '../outside.sh': 'a', 'a.sh': 'a' });
    for (const path of ['../outside.sh', 'x/../../outside.sh', `${dirname(shared)}/outside.sh`, '', '.', './a.sh', 'a.sh\0']) {
      await assert.rejects(
        copyScripts({ directory: shared, files: [{ path, sha256: sha256('a') }] }, copy),
        { code: 'script-altered' },
        path,
      );
    }
    assert.deepEqual(await readdir(copy), []);
  });
});

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { packageRoot } from '../../../src/package-root.ts';
import { installedTree, isCheckout, modulesOf } from '../../../src/sandbox/modules.ts';

describe('an installed package', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-tree-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  const install = async (path: string, ...dependencies: string[]): Promise<string> => {
    const root = join(directory, 'node_modules', path);
    await mkdir(root, { recursive: true });
    await writeFile(join(root, 'package.json'), JSON.stringify({ dependencies: Object.fromEntries(dependencies.map((name) => [name, '1'])) })); // prettier-ignore
    return root;
  };

  it('is found with all that it depends on, where Node would find it', async () => {
    const root = await install('own', 'a', '@scope/b');
    await install('own/node_modules/a', 'c');
    await install('a', 'unused');
    await install('@scope/b', 'c', 'own');
    await install('c');
    assert.deepEqual(await installedTree(root), {
      base: directory,
      packages: ['own', 'own/node_modules/a', '@scope/b', 'c'].map((path) => `node_modules/${path}`),
    });
  });

  it('is refused where a dependency lies elsewhere, or nowhere', async () => {
    const root = await install('own', 'a');
    await assert.rejects(installedTree(root), { code: 'package-scattered', exitCode: 3 });
    await mkdir(join(directory, 'a'));
    await writeFile(join(directory, 'a/package.json'), '{}');
    await symlink('../a', join(directory, 'node_modules/a'));
    await assert.rejects(installedTree(root), { code: 'package-scattered', message: /^a, which / });
  });

  it('has every module by which its programs do what they do, threads and what is imported late among them', async () => {
    const found = (await modulesOf('src/node/main.ts')).map((path) => relative(packageRoot(), path));
    const wanted = ['src/node/main.ts', 'src/heap.ts', 'src/seal/age.ts', 'src/seal/openpgp.ts', 'src/seal/seal-thread.ts', 'src/seal/digest-thread.ts']; // prettier-ignore
    assert.deepEqual(wanted.filter((path) => !found.includes(path)), []); // prettier-ignore
    assert.deepEqual(found.filter((path) => !existsSync(join(packageRoot(), path))), []); // prettier-ignore
    // What one program does without is not taken for a part of it.
    assert.ok(!found.includes('src/publish.ts'));
  });

  it('is not a checkout, as this is', () => assert.equal(isCheckout(), true));
});

import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { installedTree, isCheckout } from '../../../src/sandbox/modules.ts';

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

  it('is not a checkout, as this is', () => assert.equal(isCheckout(), true));
});

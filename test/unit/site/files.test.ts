import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeDirectory } from '../../../src/site/files.ts';
import { LocalTransport } from '../../support/local-transport.ts';

describe('a directory on a site', () => {
  it('is made for its owner alone, with its parents, and stays as it is where it is there', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'hpcs-files-'));
    try {
      await chmod(directory, 0o755);
      await makeDirectory(new LocalTransport(), join(directory, "it's/b"));
      await makeDirectory(new LocalTransport(), directory);
      const modes = ["it's/b", "it's", '.'].map(async (name) => (await stat(join(directory, name))).mode & 0o777);
      assert.deepEqual(await Promise.all(modes), [0o700, 0o700, 0o755]);
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TargetDirectory } from '../../../src/job/target.ts';
import { failsWith } from '../../support/streams.ts';

describe('the directory of results', () => {
  let place: string;
  beforeEach(async () => {
    place = await mkdtemp(join(tmpdir(), 'hpcs-target-'));
  });
  afterEach(() => rm(place, { recursive: true }));

  it('is its owner’s alone, whatever mode the application left its output with', async () => {
    const path = join(place, 'a/results');
    for (const mode of [0o777, 0o500]) {
      {
        await using target = await TargetDirectory.make(path);
        await mkdir(join(target.temporary, 'output'));
        await writeFile(join(target.temporary, 'output/file'), 'x');
        await chmod(join(target.temporary, 'output'), mode);
        await target.publish('output');
      }
      assert.equal((await stat(path)).mode & 0o7777, 0o700);
      assert.deepEqual([await readdir(join(place, 'a')), await readdir(path)], [['results'], ['file']]);
      await rm(path, { recursive: true });
    }
  });

  it('is not made over another, nor where none can be', async () => {
    await mkdir(join(place, 'there'));
    await assert.rejects(TargetDirectory.make(join(place, 'there')), failsWith('local', 'target-exists'));
    await assert.rejects(TargetDirectory.make('/proc/hpcs/results'), failsWith('local', 'write-failed'));
    assert.deepEqual(await readdir(place), ['there']);
  });
});

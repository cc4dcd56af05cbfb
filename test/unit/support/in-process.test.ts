import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

describe('hpcs in this process', function () {
  this.timeout(20_000);

  it('keeps its output apart also where that of the tests goes to a file', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'hpcs-in-process-'));
    const file = join(directory, 'output');
    const script = `
      import { hpcsInProcess } from '${new URL('../../support/in-process.ts', import.meta.url).href}';
      process.stderr.write((await hpcsInProcess(['--version'])).stdout);
    `;
    try {
      const words = ['-c', `"$@" > ${file}`, 'sh', process.execPath, '--input-type=module', '-e', script];
      const { stderr } = await promisify(execFile)('sh', words);
      assert.match(stderr, /^hpcs-client\//);
      assert.equal(await readFile(file, 'utf8'), '');
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

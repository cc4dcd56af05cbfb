import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';

describe('the program on the node', function () {
  this.timeout(20_000);
  const main = fileURLToPath(new URL('../../../src/node/main.ts', import.meta.url));

  it('goes on where its log takes nothing more', async () => {
    const code = await new Promise((resolve) =>
      execFile('sh', ['-c', 'exec "$@" > /dev/full', 'sh', process.execPath, main, 'bogus'], (error) => resolve(error?.code)),
    );
    assert.equal(code, 2);
  });
});

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { endingWithUs } from '../../../src/identity/agent.ts';

/** Whether a process runs: one that has ended may stay in the list until its new parent asks for it. */
function runs(id: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${id}/stat`, 'latin1'));
  } catch {
    return false;
  }
}

describe('a program that is to end with us', () => {
  // At 0 ms the kernel may not have been asked yet.
  for (const age of [0, 500]) {
    it(`does so even when nothing could be cleaned up, ${age} ms after its start`, async () => {
      const script = `import { spawn } from 'node:child_process';
import { endingWithUs } from ${JSON.stringify(new URL('../../../src/identity/agent.ts', import.meta.url).href)};
const [program, ...words] = endingWithUs(['sleep', '60']);
const child = spawn(program, words, { detached: true, stdio: 'ignore' });
child.once('spawn', () => setTimeout(() => console.log(child.pid), ${age}));`;
      const arguments_ = ['--input-type=module', '-e', script];
      const parent = spawn(process.execPath, arguments_, { stdio: ['ignore', 'pipe', 'inherit'] });
      const [line] = (await once(parent.stdout, 'data')) as [Buffer];
      const child = Number(line.toString());
      if (age > 0) assert.ok(runs(child));
      parent.kill('SIGKILL');
      await once(parent, 'close');
      while (runs(child)) await new Promise((resolve) => setTimeout(resolve, 20));
    });
  }

  it('does not begin for a process that is gone already', () => {
    const [program = '', ...words] = endingWithUs(['true']);
    assert.equal(spawnSync(program, words).status, 0);
    const another = words.map((word) => (word === String(process.pid) ? '1' : word));
    assert.equal(spawnSync(program, another).status, 1);
  });

  it('is told from one that cannot be started', () => {
    const [program = '', ...words] = endingWithUs(['/nowhere/at-all']);
    assert.equal(spawnSync(program, words).status, 127);
  });
});

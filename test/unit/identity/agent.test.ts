import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { endingWithUs } from '../../../src/identity/agent.ts';

describe('a program that is to end with us', () => {
  it('does so even when nothing could be cleaned up', async () => {
    const command = JSON.stringify(endingWithUs(['sleep', '60']));
    const script = `const [program, ...words] = ${command};
const child = require('node:child_process').spawn(program, words, { detached: true, stdio: 'ignore' });
child.once('spawn', () => setTimeout(() => console.log(child.pid), 100));`;
    const parent = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = (await once(parent.stdout, 'data')) as [Buffer];
    const child = `/proc/${Number(line.toString())}`;
    assert.ok(existsSync(child));
    parent.kill('SIGKILL');
    await once(parent, 'close');
    while (existsSync(child)) await new Promise((resolve) => setTimeout(resolve, 20));
  });
});

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { quote } from '../../src/shell.ts';

const terminal = fileURLToPath(new URL('../../src/terminal.ts', import.meta.url));

/** What `confirm` makes of an answer on a terminal, which script(1) gives it. */
async function answered(answer: string): Promise<string> {
  const program = `const { confirm } = await import(${JSON.stringify(terminal)}); console.log('= ' + (await confirm('sure? ', new AbortController().signal)));`;
  const command = `${quote(process.execPath)} --input-type=module -e ${quote(program)}`;
  const child = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
  // The question comes when it is ready to be answered.
  child.stdout.once('data', () => child.stdin.write(answer));
  const [output] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  return output;
}

describe('a confirmation on a terminal', () => {
  it('is a whole yes, and nothing else', async () => {
    assert.match(await answered('yes\n'), /sure\? [\s\S]*= true/);
    for (const answer of ['\n', 'y\n', 'no\n', 'yes please\n', '\u0004']) assert.match(await answered(answer), /= false/, answer);
  });
});

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

// Collections of the whole heap while a GiB of buffers comes and goes: before and after.
const program = `
import { PerformanceObserver } from 'node:perf_hooks';
import { setImmediate, setTimeout } from 'node:timers/promises';
const { tuneForStreams } = await import(process.argv[1]);
let whole = 0;
new PerformanceObserver((list) => (whole += list.getEntries().filter(({ detail }) => detail.kind > 2).length)).observe({ entryTypes: ['gc'] });
const collections = async () => {
  const before = whole;
  for (let count = 0; count < 1024; count++) {
    Buffer.allocUnsafeSlow(2 ** 20).fill(count);
    if (count % 16 === 0) await setImmediate();
  }
  await setTimeout(50);
  return whole - before;
};
const before = await collections();
tuneForStreams({ countBuffers: true, after: 0 });
await setTimeout(10);
console.log(JSON.stringify([before, await collections()]));
`;

describe('buffers', () => {
  it('have a limit of their own until they are counted in the heap, at any time', () => {
    const module = fileURLToPath(new URL('../../src/streaming.ts', import.meta.url));
    const output = execFileSync(process.execPath, ['--input-type=module', '-e', program, module], { encoding: 'utf8', env: {} });
    const [before = 0, after = 0] = JSON.parse(output) as number[];
    assert.ok(before > 8 && after < before / 2, output);
  });
});

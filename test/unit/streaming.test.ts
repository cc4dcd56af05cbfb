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

// Collections of the whole heap: after bytes that are one too few, after that one, and after as many again.
const keeping = `
import { PerformanceObserver } from 'node:perf_hooks';
import { setTimeout } from 'node:timers/promises';
const { HeapKeeper } = await import(process.argv[1]);
let whole = 0;
new PerformanceObserver((list) => (whole += list.getEntries().filter(({ detail }) => detail.kind > 2).length)).observe({ entryTypes: ['gc'] });
const heap = new HeapKeeper();
const counts = [];
for (const bytes of [2 ** 31 - 1, 1, 2 ** 31]) {
  whole = 0;
  heap.passed(bytes);
  await setTimeout(50);
  counts.push(whole);
}
console.log(JSON.stringify(counts));
`;

/** What a program says in JSON of `src/streaming.ts`, in a process of its own. */
function numbers(text: string): number[] {
  const module = fileURLToPath(new URL('../../src/streaming.ts', import.meta.url));
  return JSON.parse(
    execFileSync(process.execPath, ['--input-type=module', '-e', text, module], { encoding: 'utf8', env: {} }),
  ) as number[];
}

describe('the heap of a stream', () => {
  it('is collected whole after each 2 GiB', () => {
    assert.deepEqual(numbers(keeping), [0, 1, 1]);
  });
});

describe('buffers', () => {
  it('have a limit of their own until they are counted in the heap, at any time', () => {
    const [before = 0, after = 0] = numbers(program);
    assert.ok(before > 8 && after < before / 2, `${before} and ${after}`);
  });
});

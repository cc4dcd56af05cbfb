import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const program = `
import { getHeapSpaceStatistics } from 'node:v8';
await import(process.argv[1]);
const size = () => {
  const young = getHeapSpaceStatistics().find((space) => space.space_name === 'new_space');
  return (young.space_used_size + young.space_available_size) / 2 ** 20;
};
const sizes = [size()];
const kept = [];
for (let round = 0; round < 400; round++) kept.push(Array.from({ length: 10_000 }, () => ({ round })));
sizes.push(size());
console.log(JSON.stringify(sizes));
`;

/** MiB of the young generation: after an import, and when much more has survived. */
function sizes(module: string): number[] {
  return JSON.parse(
    execFileSync(process.execPath, ['--max-semi-space-size=16', '--input-type=module', '-e', program, module], {
      encoding: 'utf8',
      env: {},
    }),
  ) as number[];
}

describe('the heap', () => {
  it('has a young generation of 4 MiB that does not grow with what survives', () => {
    const [ours = 0, later = 0] = sizes(fileURLToPath(new URL('../../src/heap.ts', import.meta.url)));
    assert.equal(Math.round(ours), 4);
    const [usual = 0, grown = 0] = sizes('data:text/javascript,');
    assert.ok(usual < 2 && grown > 15, `${usual} and ${grown}`);
    // For a moment it may have some pages more.
    assert.ok(later < 12, `${later}`);
  });
});

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const program = `
import { getHeapSpaceStatistics } from 'node:v8';
for (const module of process.argv.slice(1)) {
  const { tuneForStreams } = await import(module);
  tuneForStreams?.({ after: 0 });
}
await new Promise((resolve) => setTimeout(resolve, 10));
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

/** MiB of the young generation: after some imports, and when much more has survived. */
function sizes(...modules: string[]): number[] {
  return JSON.parse(
    execFileSync(process.execPath, ['--max-semi-space-size=16', '--input-type=module', '-e', program, ...modules], {
      encoding: 'utf8',
      env: {},
    }),
  ) as number[];
}

describe('the heap', () => {
  it('has a young generation of 4 MiB that does not grow with what survives, once data streams', () => {
    const module = (name: string): string => fileURLToPath(new URL(`../../src/${name}.ts`, import.meta.url));
    const [ours = 0, later = 0] = sizes(module('heap'), module('streaming'));
    assert.equal(Math.round(ours), 4);
    const [usual = 0, grown = 0] = sizes('data:text/javascript,');
    assert.ok(usual < 2 && grown > 15, `${usual} and ${grown}`);
    // For a moment it may have some pages more.
    assert.ok(later < 12, `${later}`);
  });
});

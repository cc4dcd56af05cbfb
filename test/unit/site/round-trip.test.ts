import assert from 'node:assert/strict';
import { RoundTrip } from '../../../src/site/round-trip.ts';

/** Pings from a list until it is known how far the site is. @returns how far, after how many */
function measured(pings: readonly number[]): [milliseconds: number, count: number] {
  const roundTrip = new RoundTrip();
  let count = 0;
  while (!roundTrip.known) roundTrip.add(pings[count++] ?? assert.fail('more pings than there are'));
  return [roundTrip.milliseconds, count];
}

describe('the round trip to a site', () => {
  for (const [what, pings, expected] of [
    ['takes two pings over a short way', [0.4, 1.9], [0.4, 2]],
    ['takes two pings over a long way', [52, 50], [50, 2]],
    ['is not that of a moment in which somebody was busy', [45, 0.5, 0.6], [0.5, 3]],
    ['is found between two such moments', [0.5, 45, 30, 0.4], [0.4, 4]],
    ['is that of the shortest where no two are alike', [400, 10, 200, 100, 50, 20], [10, 6]],
  ] as const) {
    it(what, () => assert.deepEqual(measured(pings), expected));
  }
});

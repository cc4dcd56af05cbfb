import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import { eachOf } from '../../../src/server/store.ts';

describe('chores of the server', () => {
  const names = Array.from({ length: 100 }, (_, n) => String(n));

  it('are done a few at a time, each once', async () => {
    for (const [together, expected] of [
      [8, 8],
      [1, 1],
      [200, 100],
    ] as const) {
      const done: string[] = [];
      let [now, most] = [0, 0];
      await eachOf(names, async (name) => {
        now += 1;
        most = Math.max(most, now);
        await setImmediate();
        now -= 1;
        done.push(name);
      }, together); // prettier-ignore
      assert.equal(most, expected);
      assert.deepEqual(done.toSorted((a, b) => Number(a) - Number(b)), names); // prettier-ignore
    }
    await eachOf([], () => assert.fail());
  });

  it('that fail keep no other from its turn, and are all told at the end', async () => {
    const done: string[] = [];
    const chore = async (name: string): Promise<void> => {
      if (name.endsWith('7')) throw new Error(`not ${name}`);
      done.push(name);
    };
    await assert.rejects(eachOf(names, chore), (error: AggregateError) => {
      assert.equal(error.errors.length, 10);
      assert.match(error.message, /^10 records failed, first: not 7$/);
      return true;
    });
    assert.equal(done.length, 90);
  });
});

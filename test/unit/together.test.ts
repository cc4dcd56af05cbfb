import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { together } from '../../src/together.ts';

describe('two things at the same time', () => {
  const never = new AbortController().signal;
  /** Takes until its signal ends it. */
  const waits = (signal: AbortSignal): Promise<never> =>
    new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

  it('give both results', async () => {
    const order: string[] = [];
    const results = await together(
      never,
      async () => {
        order.push('one begins');
        await sleep(5);
        order.push('one ends');
        return 'one';
      },
      async () => {
        order.push('other begins');
        return 'other';
      },
    );
    assert.deepEqual(results, ['one', 'other']);
    assert.deepEqual(order, ['one begins', 'other begins', 'one ends']);
  });

  for (const failing of [0, 1]) {
    it(`end the other when the ${failing === 0 ? 'first' : 'second'} fails, and throw that one's error`, async () => {
      const error = new Error('wrong');
      const tasks = [waits, waits];
      tasks[failing] = async () => {
        await sleep(1);
        throw error;
      };
      await assert.rejects(together(never, ...(tasks as [typeof waits, typeof waits])), (thrown) => thrown === error);
    });

    it(`wait for the ${failing === 0 ? 'second' : 'first'}, whether it heeds its signal or not, before they fail`, async () => {
      const error = new Error('wrong');
      let over = false;
      const tasks: Array<() => Promise<void>> = [];
      tasks[failing] = async () => {
        throw error;
      };
      tasks[1 - failing] = async () => {
        await sleep(5);
        over = true;
      };
      const [first, second] = tasks as [() => Promise<void>, () => Promise<void>];
      await assert.rejects(together(never, first, second), (thrown) => thrown === error && over);
    });
  }

  it('are both ended by the signal, with its reason', async () => {
    const controller = new AbortController();
    const both = together(controller.signal, waits, waits);
    const reason = new Error('enough');
    controller.abort(reason);
    await assert.rejects(both, (thrown) => thrown === reason);
  });
});

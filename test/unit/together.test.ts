import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { together } from '../../src/together.ts';

describe('two things at the same time', () => {
  const never = new AbortController().signal;
  const made = (name: string, log: string[]) => ({
    name,
    async [Symbol.asyncDispose]() {
      await sleep(1);
      log.push(`${name} is gone`);
    },
  });
  /** Takes until its signal ends it. */
  const waits = (signal: AbortSignal): Promise<never> =>
    new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

  it('give both results, and leave them to the caller', async () => {
    const log: string[] = [];
    const order: string[] = [];
    const [one, other] = await together(
      never,
      async () => {
        order.push('one begins');
        await sleep(5);
        order.push('one ends');
        return made('one', log);
      },
      async () => {
        order.push('other begins');
        return made('other', log);
      },
    );
    assert.deepEqual([one.name, other.name, log], ['one', 'other', []]);
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

    it(`dispose of what the ${failing === 0 ? 'second' : 'first'} has made, or makes yet, before they fail`, async () => {
      for (const delay of [0, 5]) {
        const log: string[] = [];
        const error = new Error('wrong');
        const fails = async (): Promise<never> => {
          await sleep(2);
          throw error;
        };
        const makes = async () => {
          await sleep(delay);
          return made('it', log);
        };
        await assert.rejects(
          failing === 0 ? together(never, fails, makes) : together(never, makes, fails),
          (thrown) => thrown === error,
        );
        assert.deepEqual(log, ['it is gone']);
      }
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

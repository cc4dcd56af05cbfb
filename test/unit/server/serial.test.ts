import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Serial } from '../../../src/server/serial.ts';

describe('Serial', () => {
  it('runs tasks of one key one after the other, failures included, and others beside them', async () => {
    const serial = new Serial();
    const order: string[] = [];
    const task =
      (name: string, time: number, fails = false) =>
      async (): Promise<string> => {
        order.push(`${name} begins`);
        await sleep(time);
        order.push(`${name} ends`);
        if (fails) throw new Error(name);
        return name;
      };
    const results = await Promise.allSettled([
      serial.run('k', task('first', 30, true)),
      serial.run('k', task('second', 1)),
      serial.run('other', task('beside', 10)),
    ]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ['rejected', 'fulfilled', 'fulfilled'],
    );
    assert.deepEqual(order, ['first begins', 'beside begins', 'beside ends', 'first ends', 'second begins', 'second ends']);
  });
});

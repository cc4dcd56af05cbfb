import assert from 'node:assert/strict';
import { Outbox } from '../../../src/site/outbox.ts';
import { failsWith } from '../../support/streams.ts';

const mib = 1024 * 1024;
const blocks = (...texts: string[]): Buffer[] => texts.map((text) => Buffer.from(text));

describe('an outbox', () => {
  it('cuts what is to be sent into segments, and is done when all are acknowledged', async () => {
    const released: number[] = [];
    const outbox = new Outbox(blocks('aaa', 'bbb', 'cc', 'd'), (count) => released.push(count));
    outbox.segmentSize = 5;
    const first = await outbox.take();
    const second = await outbox.take();
    assert.deepEqual([first?.offset, first?.size, first?.blocks.length], [0, 6, 2]);
    assert.deepEqual([second?.offset, second?.size, second?.blocks.length], [6, 3, 2]);
    const done = outbox.take();
    // Out of order: nothing can be given back before what is older.
    outbox.acknowledge(6, 3);
    assert.deepEqual(released, []);
    outbox.acknowledge(0, 6);
    assert.deepEqual(released, [2, 2]);
    assert.equal(await done, undefined);
    assert.equal(outbox.total, 9);
  });

  it('gives out again what was not acknowledged, and nothing else', async () => {
    const outbox = new Outbox(blocks('a', 'b', 'c'));
    outbox.segmentSize = 1;
    const taken = [await outbox.take(), await outbox.take(), await outbox.take()].map((segment) => segment ?? assert.fail());
    outbox.acknowledge(1, 1);
    outbox.giveBack(taken);
    assert.equal((await outbox.take())?.offset, 0);
    assert.equal((await outbox.take())?.offset, 2);
    // Answers that come late, and twice, change nothing.
    outbox.acknowledge(1, 1);
    outbox.acknowledge(0, 1);
    outbox.acknowledge(0, 1);
    outbox.acknowledge(2, 1);
    assert.equal(await outbox.take(), undefined);
  });

  it('reads no further ahead than its window', async () => {
    let read = 0;
    const content = (function* () {
      for (; read < 200; read++) yield Buffer.alloc(mib);
    })();
    const outbox = new Outbox(content);
    for (let turn = 0; turn < 500; turn++) await Promise.resolve();
    await new Promise(setImmediate);
    assert.ok(read > 8 && read < 40, `${read} MiB read`);
    const segment = await outbox.take();
    outbox.acknowledge(segment?.offset ?? -1, segment?.size ?? -1);
    outbox.close(new Error('over'));
  });

  it('refuses an acknowledgement of another size', async () => {
    const outbox = new Outbox(blocks('abc'));
    await outbox.take();
    assert.throws(() => outbox.acknowledge(0, 2), failsWith('integrity', 'upload-incomplete'));
  });

  it('passes on the failure of its content, and ends it when closed', async () => {
    const broken = (async function* () {
      yield Buffer.from('x');
      throw new Error('no more');
    })();
    const outbox = new Outbox(broken);
    await assert.rejects(async () => {
      while ((await outbox.take()) !== undefined);
    }, /no more/);
    let ended = false;
    const endless = (async function* () {
      try {
        for (;;) yield Buffer.alloc(mib);
      } finally {
        ended = true;
      }
    })();
    const closed = new Outbox(endless);
    await closed.take();
    closed.close(new Error('given up'));
    await assert.rejects(async () => {
      while ((await closed.take()) !== undefined);
    }, /given up/);
    await new Promise(setImmediate);
    assert.equal(ended, true);
  });
});

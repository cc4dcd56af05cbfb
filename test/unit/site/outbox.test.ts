import assert from 'node:assert/strict';
import { Outbox } from '../../../src/site/outbox.ts';
import type { BlockMemory } from '../../../src/seal/bytes.ts';
import { failsWith } from '../../support/streams.ts';

const mib = 1024 * 1024;
const blocks = (...texts: string[]): Buffer[] => texts.map((text) => Buffer.from(text));

const recording = (released: number[]): BlockMemory => ({
  release: (count) => void released.push(count),
  widen: () => undefined,
});

describe('an outbox', () => {
  const lane = {};

  it('cuts what is to be sent into segments, and is done when all are acknowledged', async () => {
    const released: number[] = [];
    const outbox = new Outbox(blocks('aaa', 'bbb', 'cc', 'd'), recording(released));
    outbox.segmentSize = 5;
    const first = await outbox.take(lane);
    const second = await outbox.take(lane);
    assert.deepEqual([first?.offset, first?.size, first?.blocks.length], [0, 6, 2]);
    assert.deepEqual([second?.offset, second?.size, second?.blocks.length], [6, 3, 2]);
    const done = outbox.take(lane);
    // Out of order: nothing can be given back before what is older.
    outbox.acknowledge(lane, 6, 3);
    assert.deepEqual(released, []);
    outbox.acknowledge(lane, 0, 6);
    assert.deepEqual(released, [2, 2]);
    assert.equal(await done, undefined);
    assert.equal(outbox.total, 9);
  });

  it('tells what has arrived of what was given', async () => {
    const told: number[][] = [];
    const outbox = new Outbox(blocks('aaa', 'bb'), undefined, (...counts) => void told.push(counts));
    outbox.segmentSize = 1;
    await outbox.take(lane);
    await outbox.take(lane);
    outbox.acknowledge(lane, 3, 2);
    outbox.acknowledge(lane, 0, 3);
    assert.deepEqual(told, [[0, 5], [5, 5]]); // prettier-ignore
  });

  it('gives out again what was not acknowledged, and nothing else', async () => {
    const outbox = new Outbox(blocks('a', 'b', 'c'));
    outbox.segmentSize = 1;
    for (let count = 0; count < 3; count++) await outbox.take(lane);
    outbox.acknowledge(lane, 1, 1);
    outbox.giveBack(lane);
    assert.equal(await outbox.take(lane), undefined);
    const next = {};
    assert.equal((await outbox.take(next))?.offset, 0);
    assert.equal((await outbox.take(next))?.offset, 2);
    // Answers that come twice change nothing.
    outbox.acknowledge(next, 0, 1);
    outbox.acknowledge(next, 0, 1);
    outbox.acknowledge(next, 2, 1);
    assert.equal(await outbox.take(next), undefined);
  });

  it('lets go of no block that may be on its way once more, whatever answer comes late', async () => {
    const released: number[] = [];
    const outbox = new Outbox(blocks('a', 'b'), recording(released));
    outbox.segmentSize = 1;
    await outbox.take(lane);
    outbox.giveBack(lane);
    outbox.acknowledge(lane, 0, 1);
    assert.deepEqual(released, [], 'while it waits');
    const next = {};
    assert.equal((await outbox.take(next))?.offset, 0);
    outbox.acknowledge(lane, 0, 1);
    assert.deepEqual(released, [], 'while it goes');
    outbox.acknowledge(next, 0, 1);
    assert.deepEqual(released, [1]);
  });

  it('lets nobody wait whose end was told', async () => {
    const outbox = new Outbox(blocks('a'));
    await outbox.take(lane);
    const waiting = outbox.take(lane);
    outbox.giveBack(lane);
    assert.equal(await waiting, undefined);
    assert.equal((await outbox.take({}))?.offset, 0);
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
    outbox.widen();
    for (let turn = 0; turn < 500; turn++) await Promise.resolve();
    await new Promise(setImmediate);
    assert.ok(read > 40 && read < 56, `${read} MiB read once it was wide`);
    const segment = await outbox.take(lane);
    outbox.acknowledge(lane, segment?.offset ?? -1, segment?.size ?? -1);
    outbox.close(new Error('over'));
  });

  it('refuses an acknowledgement of another size', async () => {
    const outbox = new Outbox(blocks('abc'));
    await outbox.take(lane);
    assert.throws(() => outbox.acknowledge(lane, 0, 2), failsWith('integrity', 'upload-incomplete'));
  });

  it('passes on the failure of its content, and ends it when closed', async () => {
    const broken = (async function* () {
      yield Buffer.from('x');
      throw new Error('no more');
    })();
    const outbox = new Outbox(broken);
    await assert.rejects(async () => {
      while ((await outbox.take(lane)) !== undefined);
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
    await closed.take(lane);
    closed.close(new Error('given up'));
    await assert.rejects(async () => {
      while ((await closed.take(lane)) !== undefined);
    }, /given up/);
    await new Promise(setImmediate);
    assert.equal(ended, true);
  });
});

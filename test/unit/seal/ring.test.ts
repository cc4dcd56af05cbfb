import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { makeRing, RingConsumer, RingFailed, RingProducer } from '../../../src/seal/ring.ts';
import type { RingPeer } from '../../support/ring-peer.ts';

const peer = async (task: RingPeer): Promise<{ sha256: string; size: number }> => {
  const thread = new Worker(new URL('../../support/ring-peer.ts', import.meta.url), { workerData: task });
  const [told] = (await once(thread, 'message')) as [{ sha256: string; size: number }];
  await thread.terminate();
  return told;
};

const block = (count: number): Buffer => Buffer.from(String(count).padStart(4, '0'));

describe('a ring', () => {
  for (const [how, slots, most, turn] of [
    ['', 8, 8],
    [', and is widened meanwhile', 8, 32],
    [', with counts that often begin anew', 12, 12, 24],
    [', with counts that often begin anew, and is widened meanwhile', 12, 48, 96],
  ] as const) {
    // prettier-ignore
    it(`loses and alters nothing in ten thousand rounds of random sizes and stalls, whoever is slow${how}`, async function () {
      this.timeout(120_000);
      const whole = makeRing(slots, 512, 2, most);
      const ring = turn === undefined ? whole : { ...whole, turn };
      const seed = Math.floor(Math.random() * 2 ** 32);
      const common = { ring, slotSize: 512, rounds: 10_000, consumer: 0 };
      const widening = most > slots ? { widenAfter: seed % 5000 } : {};
      const [made, first, second] = await Promise.all([
        peer({ ...common, role: 'produce', seed }),
        peer({ ...common, ...widening, role: 'consume', seed: seed + 1 }),
        peer({ ...common, ...widening, role: 'consume', consumer: 1, seed: seed + 2 }),
      ]);
      assert.ok(made.size > 1_000_000);
      assert.deepEqual(first, made, `seed ${seed}`);
      assert.deepEqual(second, made, `seed ${seed}`);
    });
  }

  it('holds a producer back until a block is released', async () => {
    const ring = makeRing(2, 4, 1);
    const producer = new RingProducer(ring);
    const consumer = new RingConsumer(ring, 0);
    let done = false;
    const filling = producer.putAsync(Buffer.from('abcdefghijkl')).then(() => (done = true));
    await sleep(20);
    assert.equal(done, false);
    assert.equal(String(await consumer.nextAsync()), 'abcd');
    await sleep(20);
    assert.equal(done, false, 'a block that is taken is not free yet');
    consumer.release();
    await filling;
    producer.end();
    assert.equal(String(await consumer.nextAsync()), 'efgh');
    assert.equal(String(await consumer.nextAsync()), 'ijkl');
    assert.equal(await consumer.nextAsync(), undefined);
    assert.equal(await consumer.nextAsync(), undefined);
  });

  it('hands over what was allocated in it without copying', () => {
    const ring = makeRing(2, 8, 1);
    const producer = new RingProducer(ring);
    const block = producer.allocate(3);
    block.write('xyz');
    producer.put(block);
    assert.equal(String(new RingConsumer(ring, 0).next()), 'xyz');
    assert.equal(Buffer.from(ring.blocks).toString('latin1', 0, 3), 'xyz');
  });

  it('hands over a block that is not full before one that is allocated', () => {
    const ring = makeRing(4, 8, 1);
    const producer = new RingProducer(ring);
    producer.put(Buffer.from('ab'));
    const block = producer.allocate(2);
    block.write('cd');
    producer.put(block);
    producer.put(Buffer.from('ef'));
    producer.end();
    const consumer = new RingConsumer(ring, 0);
    assert.deepEqual([consumer.next(), consumer.next(), consumer.next(), consumer.next()].map((one) => one && String(one)), ['ab', 'cd', 'ef', undefined]); // prettier-ignore
  });

  it('wakes both ends when one fails', async () => {
    const ring = makeRing(2, 4, 1);
    const waiting = new RingConsumer(ring, 0).nextAsync();
    new RingProducer(ring).fail();
    await assert.rejects(waiting, RingFailed);
    const full = makeRing(2, 4, 1);
    const filling = new RingProducer(full).putAsync(Buffer.alloc(100));
    await sleep(5);
    new RingConsumer(full, 0).fail();
    await assert.rejects(filling, RingFailed);
  });

  it('does not let more be released than was taken', () => {
    const ring = makeRing(2, 4, 1);
    new RingProducer(ring).put(Buffer.alloc(8));
    const consumer = new RingConsumer(ring, 0);
    consumer.next();
    assert.throws(() => consumer.release(2), RangeError);
  });

  // Asked for at every place in the ring, and at every number of blocks that are held.
  for (let before = 0; before < 16; before++) {
    it(`may be widened after block ${before}, and keeps what is held`, async () => {
      for (let held = 0; held <= Math.min(4, before); held++) {
        const ring = makeRing(4, 4, 1, 16);
        const producer = new RingProducer(ring);
        const consumer = new RingConsumer(ring, 0);
        const kept: Buffer[] = [];
        const letGo = (): void => {
          consumer.release();
          kept.shift();
        };
        let next = 0;
        const move = async (): Promise<void> => {
          const made = producer.putAsync(block(next++)).then(() => true);
          // Lets go of a block only when the producer is held back.
          while ((await Promise.race([made, new Promise(setImmediate)])) !== true) letGo();
          kept.push(consumer.next() ?? Buffer.alloc(0));
          assert.deepEqual(kept.map(String), kept.map((_, index) => String(block(next - kept.length + index)))); // prettier-ignore
        };
        for (let count = 0; count < before; count++) await move();
        while (kept.length > held) letGo();
        consumer.widen();
        for (let count = 0; count < 48; count++) await move();
        assert.equal(kept.length, 16);
      }
    });
  }

  it('takes no memory for what it might be widened to', () => {
    const size = 64 * 1024 * 1024;
    const ring = makeRing(2, size / 32, 1, 32);
    const producer = new RingProducer(ring);
    const consumer = new RingConsumer(ring, 0);
    const before = process.memoryUsage.rss();
    for (let round = 0; round < 64; round++) {
      producer.allocate(size / 32).fill(1);
      producer.put(producer.allocate(size / 32));
      consumer.next();
      consumer.release();
    }
    assert.ok(process.memoryUsage.rss() - before < size / 4);
  });

  it('is widened by doubling only', () => {
    assert.throws(() => makeRing(4, 4, 1, 12), RangeError);
    assert.throws(() => makeRing(4, 4, 1, 2), RangeError);
  });

  it('counts to a number at which no block jumps in it', () => {
    for (const [slots, most] of [
      [2, 2],
      [24, 48],
      [3, 12],
      [64, 64],
    ] as const) {
      // prettier-ignore
      const { turn } = makeRing(slots, 4, 1, most);
      assert.equal(turn % most, 0);
      assert.ok(turn > 2 ** 31 - 1 - most && turn < 2 ** 31);
    }
  });
});

// A thread at the other end of a ring, for its tests: fills it with known bytes, or digests what comes, with pauses at random.
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { RingConsumer, RingProducer, type RingMemory } from '../../src/seal/ring.ts';

/** What the thread is to do. */
export interface RingPeer {
  ring: RingMemory;
  slotSize: number;
  /** Block after which a consumer asks for more of them. */
  widenAfter?: number;
  role: 'produce' | 'consume';
  consumer: number;
  rounds: number;
  seed: number;
}

const { ring, slotSize, widenAfter, role, consumer, rounds, seed } = workerData as RingPeer;
let state = seed;
const random = (below: number): number => {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
  return state % below;
};
const idle = new Int32Array(new SharedArrayBuffer(4));
const stall = (): void => {
  if (random(50) === 0) Atomics.wait(idle, 0, 0, random(3));
};
const hash = createHash('sha256');
let size = 0;

if (role === 'produce') {
  const producer = new RingProducer(ring);
  for (let round = 0; round < rounds; round++) {
    const length = random(2 * slotSize);
    const fill = round & 0xff;
    if (length <= slotSize && random(2) === 0) {
      // In place, as a cipher fills it.
      const block = producer.allocate(length);
      block.fill(fill);
      stall();
      producer.put(block);
    } else {
      producer.put(Buffer.alloc(length, fill));
    }
    hash.update(Buffer.alloc(length, fill));
    size += length;
    stall();
  }
  producer.end();
} else {
  const reader = new RingConsumer(ring, consumer);
  const held: Buffer[] = [];
  const take = (): void => {
    const block = held.shift();
    if (block === undefined) return;
    // Digested as late as possible: what is used again too early shows.
    hash.update(block);
    size += block.length;
    reader.release();
  };
  let taken = 0;
  for (let block = reader.next(); block !== undefined; block = reader.next()) {
    held.push(block);
    if (taken++ === widenAfter) reader.widen();
    stall();
    // From then on the ring is as wide as it may be, whatever its place was.
    const wide = widenAfter !== undefined && taken > widenAfter + 64;
    while (held.length > random(wide ? 31 : 7)) take();
  }
  while (held.length > 0) take();
}
parentPort?.postMessage({ sha256: hash.digest('hex'), size });

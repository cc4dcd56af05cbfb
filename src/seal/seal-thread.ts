/** The thread that packs, compresses and encrypts. Started by threads.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { pack } from '../pack/pack.ts';
import { sealBody } from './body.ts';
import { blockSize, type Bytes } from './bytes.ts';
import { frameSize } from './compress.ts';
import { RingConsumer, RingFailed, RingProducer, type RingMemory } from './ring.ts';
import { failureOf } from './thread-failure.ts';
import type { SealTask } from './threads.ts';

const task = workerData as SealTask;
const sealed = new RingProducer(task.sealed);
try {
  sealed.put(task.header);
  sealed.flush();
  const body = sealBody(counted(plain(task.source)), task.body, task.compress, (size) => sealed.allocate(size));
  for await (const piece of body) sealed.put(piece);
  sealed.end();
  parentPort?.postMessage({});
} catch (error) {
  if (!(error instanceof RingFailed)) parentPort?.postMessage({ failure: failureOf(error) });
  sealed.fail();
}

function plain(source: SealTask['source']): Bytes {
  if ('ring' in source) return blocksOf(source.ring);
  // As many blocks as may be waiting to be compressed, and one that is being filled.
  const blocks = task.compress === 'none' ? { blockSize, reuseAfter: 3 } : { blockSize: frameSize, reuseAfter: 5 };
  return pack(source.path, { name: source.name, ...blocks });
}

// Copied, since compression holds several at a time for a while.
async function* blocksOf(memory: RingMemory): AsyncGenerator<Uint8Array, void, undefined> {
  const ring = new RingConsumer(memory, 0);
  for (let block = ring.next(); block !== undefined; block = ring.next()) {
    yield Buffer.from(block);
    ring.release();
  }
}

async function* counted(input: Bytes): AsyncGenerator<Uint8Array, void, undefined> {
  const count = new BigInt64Array(task.taken);
  for await (const piece of input) {
    Atomics.add(count, 0, BigInt(piece.length));
    yield piece;
  }
}

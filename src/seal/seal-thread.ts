/** The thread that makes the header, packs and encrypts, and helps those that compress. Started by threads.ts. */
import { parentPort } from 'node:worker_threads';
import { pack } from '../pack/pack.ts';
import { sealBody } from './body.ts';
import type { Bytes } from './bytes.ts';
import { CompressingThreads } from './compressor.ts';
import { makeHeader } from './header.ts';
import { HeapKeeper } from '../streaming.ts';
import { generateKey } from './keys.ts';
import { RingConsumer, RingProducer, type RingMemory } from './ring.ts';
import { endedBy } from './thread-failure.ts';
import { receiveTask } from './thread-task.ts';
import type { SealTask, ThreadReport } from './threads.ts';

const task = await receiveTask<SealTask>();
/** Encryption holds one block back, to know the last one as such. */
const reuseAfter = 2;
const sealed = new RingProducer(task.sealed);
const say = (report: ThreadReport): void => parentPort?.postMessage(report);
const compressor = new CompressingThreads(task.compressors, () => say({ compressing: true }));
try {
  const key = task.newKey ? await generateKey(task.format) : undefined;
  const { header, body: bodyKey } = await makeHeader(task.format, [
    ...(key === undefined ? [] : [key.publicKey]),
    ...task.recipients,
  ]);
  say({ begun: key === undefined ? undefined : { ...key, secretKey: key.secretKey.reveal() } });
  key?.secretKey[Symbol.dispose]();
  sealed.put(header);
  sealed.flush();
  const body = sealBody(counted(plain(task.source)), bodyKey, task.compress, {
    allocate: (size) => sealed.allocate(size),
    compressor,
    reuseAfter,
  });
  for await (const piece of body) sealed.put(piece);
  compressor.end();
  sealed.end();
  say({});
} catch (error) {
  say(endedBy(error));
  sealed.fail();
}

function plain(source: SealTask['source']): Bytes {
  if ('ring' in source) return blocksOf(source.ring);
  // What is not compressed is encrypted where it is, which keeps a block for longer.
  const given = task.compress === 'none' ? undefined : () => compressor.room();
  return pack(source.path, { name: source.name, reuseAfter, given });
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
  const heap = new HeapKeeper();
  for await (const piece of input) {
    heap.passed(piece.length);
    Atomics.add(count, 0, BigInt(piece.length));
    yield piece;
  }
}

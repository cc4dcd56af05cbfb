/** The thread that digests sealed bytes beside their encryption. Started by threads.ts. */
import { createHash } from 'node:crypto';
import { parentPort } from 'node:worker_threads';
import { RingConsumer } from './ring.ts';
import { endedBy } from './thread-failure.ts';
import { receiveTask } from './thread-task.ts';
import type { DigestTask } from './threads.ts';

const task = await receiveTask<DigestTask>();
const ring = new RingConsumer(task.sealed, task.consumer);
const hash = createHash('sha512');
let size = 0;
try {
  for (let block = ring.next(); block !== undefined; block = ring.next()) {
    hash.update(block);
    size += block.length;
    ring.release();
  }
  parentPort?.postMessage({ summary: { sha512: hash.digest('hex'), size } });
} catch (error) {
  parentPort?.postMessage(endedBy(error));
  ring.fail();
}

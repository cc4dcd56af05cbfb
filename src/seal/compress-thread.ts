/** A thread that compresses frames. Started by threads.ts. */
import { parentPort } from 'node:worker_threads';
import { freeWhole } from './bytes.ts';
import { compressFrame, type CompressorMemory } from './compressor.ts';
import { RingConsumer, RingProducer } from './ring.ts';
import { endedBy } from './thread-failure.ts';
import { receiveTask } from './thread-task.ts';

const memory = await receiveTask<CompressorMemory>();
const frames = new RingConsumer(memory.frames, 0);
const compressed = new RingProducer(memory.compressed);
try {
  for (let frame = frames.next(); frame !== undefined; frame = frames.next()) {
    const result = compressFrame(frame);
    frames.release();
    compressed.put(result);
    compressed.flush();
    freeWhole(result);
  }
  compressed.end();
  parentPort?.postMessage({});
} catch (error) {
  parentPort?.postMessage(endedBy(error));
  compressed.fail();
}

import { once } from 'node:events';
import { parentPort } from 'node:worker_threads';
import type { ThreadTask } from './threads.ts';

/** What the thread that this is in is to do, once it is told. See threads.ts. */
export async function receiveTask<Task extends ThreadTask>(): Promise<Task> {
  if (parentPort === null) throw new Error('this module is a thread');
  const [task] = (await once(parentPort, 'message')) as [Task];
  return task;
}

import { setFlagsFromString } from 'node:v8';

/**
 * Buffers that wait for the collector count from now on as what they are, a part of the heap. With a limit of their own, that of V8's
 * default, the heap is marked anew after every few dozen MiB that have streamed through: a quarter of the processor time of making an
 * image, and a twentieth of that of sealing.
 *
 * Opening gains nothing by it, and would take some 100 MiB more: on a node they are the job's.
 */
export function countBuffersInHeap(): void {
  setFlagsFromString('--external-memory-accounted-in-global-limit');
}

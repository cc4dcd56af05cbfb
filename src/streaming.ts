import { setFlagsFromString } from 'node:v8';

/** How V8 is told. */
export interface StreamOptions {
  /**
   * Whether buffers that wait for the collector count as what they are, a part of the heap. With a limit of their own, that of V8's default,
   * the heap is marked anew after every few dozen MiB that have streamed through: a quarter of the processor time of making an image, and a
   * twentieth of that of sealing. Opening gains nothing by it, and would take some 100 MiB more: on a node they are the job's.
   */
  countBuffers?: boolean;
  /** Milliseconds from now. Default: when the threads that are started now are up. */
  after?: number;
}

/**
 * Suits V8 to gigabytes that stream through this process from now on: the young generation of the heap keeps the size that it has, lest
 * buffers that hang on its garbage stay for longer; and code is compiled for the highest speed only when it runs for long, as compiling it
 * took a twentieth of the processor time of the first GiB.
 *
 * Not at once: V8 takes what was compiled under other flags for useless, and would compile all code that comes with Node anew, which costs
 * each thread 40 ms and a command 12.
 */
export function tuneForStreams({ countBuffers = false, after = 300 }: StreamOptions = {}): void {
  setTimeout(() => {
    setFlagsFromString('--semi-space-growth-factor=1');
    setFlagsFromString('--invocation-count-for-turbofan=10000');
    if (countBuffers) setFlagsFromString('--external-memory-accounted-in-global-limit');
  }, after).unref();
}

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

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

/** Bytes that stream through before what has outlived the young generation is collected: 5 s of a quick way, beside which 20 ms are nothing. */
const collectEach = 2 * 1024 ** 3;

/**
 * Keeps memory flat however much streams through. A few buffers of each GiB outlive the young generation by chance, and V8 comes to mark
 * the old one only when that has grown tenfold: without this, 20 GiB took 10 MiB more than one.
 */
export class HeapKeeper {
  #passed = 0;
  #collect: (() => void) | undefined;

  /** So many bytes have streamed through this thread. */
  passed(bytes: number): void {
    this.#passed += bytes;
    if (this.#passed < collectEach) return;
    this.#passed = 0;
    this.#collect ??= collector();
    this.#collect();
  }
}

/** What collects the whole heap of this thread. V8 gives it to contexts that are made under the flag. */
function collector(): () => void {
  // Left so: another thread may be doing the same.
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}

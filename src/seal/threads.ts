/**
 * Sealing on threads of its own: one makes the header, packs and encrypts, some compress, one digests, and who ships the bytes is another.
 * They share memory, so that little is copied between them.
 */
import { availableParallelism } from 'node:os';
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { HpcsError, messageOf } from '../errors.ts';
import type { BlockMemory, Bytes } from './bytes.ts';
import { blockSize, unfinished } from './bytes.ts';
import type { Compression } from './compress.ts';
import { makeCompressorMemory, type CompressorMemory } from './compressor.ts';
import type { Summarised, Summary } from './digest.ts';
import type { ArtefactKey } from './keys.ts';
import { makeRing, RingConsumer, RingFailed, RingProducer, type RingMemory } from './ring.ts';
import type { SealOptions } from './seal.ts';
import type { SealFormat } from './format.ts';
import { threadDied, type ThreadFailure } from './thread-failure.ts';
import { Secret } from '../secret.ts';
import { HeapKeeper, tuneForStreams } from '../streaming.ts';

/** What to seal: a directory or file, packed on the way; or bytes. */
export type SealSource = { path: string; name?: string | undefined } | Bytes;

/** What the sealing thread is told. */
export interface SealTask {
  source: { path: string; name?: string | undefined } | { ring: RingMemory };
  format: SealFormat;
  recipients: readonly string[];
  /** Whether to make a key pair, too, and to seal to it. */
  newKey: boolean;
  compress: Compression;
  /** Shared with threads that are started when the first frame is to be compressed. */
  compressors: readonly CompressorMemory[];
  sealed: RingMemory;
  /** One 64-bit count of plain bytes that were taken. */
  taken: SharedArrayBuffer;
}

/** What the digesting thread is told. */
export interface DigestTask {
  sealed: RingMemory;
  /** Which consumer of the ring it is. */
  consumer: number;
}

/**
 * What a thread says: the sealing one that its header is made, with the key pair that it may have made, and once that there is something to
 * compress; each at its end how it ended.
 */
export type ThreadReport =
  | { summary?: Summary }
  | { failure: ThreadFailure }
  | { ringFailed: true }
  | { compressing: true }
  | { begun: NewKey | undefined };

/** A key pair on its way from thread to thread, inside this process. */
export type NewKey = Omit<ArtefactKey, 'secretKey'> & { secretKey: string };

/** Blocks of sealed bytes in the air: what lies between encryption and the site's answer that it has them. */
const sealedSlots = { first: 24, most: 48 };
/** A block, its OpenPGP or age framing included. */
const sealedSlotSize = blockSize + 4096;
const plainSlots = 8;

/** Threads that compress, beside the sealing one, which does so when they have no room. More than three are faster than the rest. */
const compressingThreads = (): number => Math.min(Math.max(availableParallelism() - 1, 1), 3);

/** Small heaps: what these threads move lies outside of them. */
const threadLimits = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 4 };

/** Sealed bytes that are being made. Disposing of it ends its threads. */
export class Sealing implements BlockMemory, AsyncDisposable {
  /** Settles when all was sealed and digested, or failed, or was given up. Nobody has to wait for it. */
  readonly summary: Promise<Summary>;
  readonly #consumer: RingConsumer;
  readonly #rings: RingMemory[];
  readonly #threads: Worker[];
  readonly #failure = Promise.withResolvers<never>();
  readonly #begun: Promise<NewKey | undefined>;
  readonly #input: Promise<void>;
  readonly #unwatch: () => void;
  readonly #taken: BigInt64Array;

  private constructor(task: SealTask, input: Bytes | undefined, options: SealOptions) {
    const begun = Promise.withResolvers<NewKey | undefined>();
    this.#begun = Promise.race([begun.promise, this.#failure.promise]);
    this.#begun.catch(() => undefined);
    this.#consumer = new RingConsumer(task.sealed, 0);
    this.#rings = [task.sealed, ...task.compressors.flatMap(({ frames, compressed }) => [frames, compressed])];
    if ('ring' in task.source) this.#rings.push(task.source.ring);
    this.#failure.promise.catch(() => undefined);
    this.#threads = [];
    void this.#start('seal-thread', task, {
      begun: begun.resolve,
      compress: () => {
        for (const memory of task.compressors) void this.#start('compress-thread', memory);
      },
    });
    const digested = this.#start('digest-thread', { sealed: task.sealed, consumer: 1 } satisfies DigestTask);
    this.summary = Promise.race([digested, this.#failure.promise]).then((report) => {
      if (report.summary === undefined) throw new HpcsError('bug', 'bug', 'the digesting thread gave no digest');
      return report.summary;
    });
    this.summary.catch(() => undefined);
    this.#input =
      input === undefined || !('ring' in task.source) ? Promise.resolve() : this.#feed(input, new RingProducer(task.source.ring));
    this.#taken = new BigInt64Array(task.taken);
    this.#unwatch = this.#watch(options);
  }

  /**
   * Starts sealing.
   *
   * @throws HpcsError `usage` for a recipient that is none; whatever fails later is thrown where the blocks are taken
   */
  static async start(source: SealSource, options: SealOptions): Promise<Sealing> {
    const { sealing } = await Sealing.#begin(source, options, false);
    return sealing;
  }

  /** Makes a fresh key pair, and starts sealing to it and to the recipients, if any. @throws as {@link Sealing.start} does */
  static async startWithNewKey(source: SealSource, options: SealOptions): Promise<{ sealing: Sealing; key: ArtefactKey }> {
    const { sealing, key } = await Sealing.#begin(source, options, true);
    if (key === undefined) throw new HpcsError('bug', 'bug', 'the sealing thread made no key');
    const secretKey = new Secret(key.secretKey);
    // What came from the thread lives as long as the sealing.
    key.secretKey = '';
    return { sealing, key: { ...key, secretKey } };
  }

  static async #begin(
    source: SealSource,
    options: SealOptions,
    newKey: boolean,
  ): Promise<{ sealing: Sealing; key: NewKey | undefined }> {
    options.signal?.throwIfAborted();
    tuneForStreams({ countBuffers: true });
    const input = Symbol.asyncIterator in source ? source : undefined;
    const task: SealTask = {
      source: Symbol.asyncIterator in source ? { ring: makeRing(plainSlots, blockSize, 1) } : source,
      format: options.format,
      recipients: options.recipients,
      newKey,
      compress: options.compress ?? 'auto',
      compressors: Array.from({ length: compressingThreads() }, makeCompressorMemory),
      sealed: makeRing(sealedSlots.first, sealedSlotSize, 2, sealedSlots.most),
      taken: new SharedArrayBuffer(8),
    };
    const sealing = new Sealing(task, input, options);
    try {
      return { sealing, key: await sealing.#begun };
    } catch (error) {
      await sealing[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Plain bytes, before any compression, that were taken so far; all of them once {@link summary} has settled. */
  get plainSize(): number {
    return Number(Atomics.load(this.#taken, 0));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    const heap = new HeapKeeper();
    try {
      for (let block = await this.#consumer.nextAsync(); block !== undefined; block = await this.#consumer.nextAsync()) {
        heap.passed(block.length);
        yield block;
      }
    } catch (error) {
      throw error instanceof RingFailed ? await this.#reason() : error;
    }
  }

  release(blocks: number): void {
    this.#consumer.release(blocks);
  }

  widen(): void {
    this.#consumer.widen();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#unwatch();
    this.#fail(unfinished());
    await Promise.all(this.#threads.map((thread) => thread.terminate()));
    await this.#input;
  }

  #start(name: ThreadName, data: ThreadTask, told: Pick<Told, 'begun' | 'compress'> = {}): Promise<{ summary?: Summary }> {
    const { promise, resolve } = Promise.withResolvers<{ summary?: Summary }>();
    this.#threads.push(startThread(name, data, { report: resolve, fail: (error) => this.#fail(error), ...told }));
    return promise;
  }

  async #feed(input: Bytes, ring: RingProducer): Promise<void> {
    try {
      for await (const piece of input) await ring.putAsync(piece);
      ring.end();
    } catch (error) {
      // A ring that failed is not the reason: that was told elsewhere.
      if (!(error instanceof RingFailed)) this.#fail(error);
    }
  }

  #watch({ signal, onProgress }: SealOptions): () => void {
    const timer = setInterval(() => onProgress?.(this.plainSize), 100);
    timer.unref();
    const onAbort = (): void => this.#fail(signal?.reason);
    signal?.addEventListener('abort', onAbort);
    return () => {
      clearInterval(timer);
      onProgress?.(this.plainSize);
      signal?.removeEventListener('abort', onAbort);
    };
  }

  /** Makes everybody stop. The first reason counts. */
  #fail(reason: unknown): void {
    this.#failure.reject(reason);
    for (const memory of this.#rings) new RingConsumer(memory, 0).fail();
  }

  // The thread whose ring failed tells why in a message of its own, which may be still on its way.
  async #reason(): Promise<unknown> {
    return this.#failure.promise.catch((error: unknown) => error);
  }
}

/**
 * Lets a byte stream through unchanged, and digests it on another thread meanwhile. Disposing of it ends the thread.
 *
 * @returns the bytes, and their summary once the last one was taken
 */
export function digestingAside(input: Bytes): Summarised & AsyncDisposable {
  const ring = makeRing(plainSlots, blockSize, 1);
  const { promise, resolve, reject } = Promise.withResolvers<Summary>();
  promise.catch(() => undefined);
  const thread = startThread('digest-thread', { sealed: ring, consumer: 0 } satisfies DigestTask, {
    report: ({ summary }) => summary !== undefined && resolve(summary),
    fail: (error) => {
      reject(error);
      new RingConsumer(ring, 0).fail();
    },
  });
  const bytes = (async function* () {
    const producer = new RingProducer(ring);
    try {
      for await (const piece of input) {
        await producer.putAsync(piece);
        yield piece;
      }
      producer.end();
    } catch (error) {
      reject(error);
      throw error instanceof RingFailed ? await promise.catch((reason: unknown) => reason) : error;
    } finally {
      // After an end this changes nothing.
      producer.fail();
    }
  })();
  return {
    bytes,
    summary: promise,
    async [Symbol.asyncDispose]() {
      reject(unfinished());
      await thread.terminate();
    },
  };
}

type ThreadName = 'seal-thread' | 'compress-thread' | 'digest-thread';
/** What a thread is to do. */
export type ThreadTask = SealTask | CompressorMemory | DigestTask;

/** Who is told what a thread says. */
interface Told {
  report: (report: { summary?: Summary }) => void;
  fail: (error: unknown) => void;
  begun?: (key: NewKey | undefined) => void;
  compress?: () => void;
}

/** Threads that wait for a task. */
const waiting = new Map<ThreadName, Worker>();

/**
 * Starts the threads that any sealing needs before it is known what is to be sealed, so that they come up beside what this process does
 * until then. They keep no process from ending.
 */
export function startEarly(): void {
  for (const name of ['seal-thread', 'digest-thread'] as const) {
    if (waiting.has(name)) continue;
    const thread = makeThread(name);
    const forget = (): void => {
      if (waiting.get(name) === thread) waiting.delete(name);
    };
    // Whoever needs it then starts another, and is told if that fails, too.
    thread.once('error', forget).once('exit', forget).unref();
    waiting.set(name, thread);
  }
}

function makeThread(name: ThreadName): Worker {
  return new Worker(new URL(`./${name}${extname(import.meta.url)}`, import.meta.url), { name, resourceLimits: threadLimits });
}

/** Has a thread do a task. It says how it ended once; one that ends without a word has died. */
function startThread(name: ThreadName, data: ThreadTask, told: Told): Worker {
  const thread = waiting.get(name) ?? makeThread(name);
  waiting.delete(name);
  thread.ref();
  let over = false;
  thread.on('message', (report: ThreadReport) => {
    if ('compressing' in report) told.compress?.();
    else if ('begun' in report) told.begun?.(report.begun);
    else {
      over = true;
      if ('failure' in report) told.fail(revive(report.failure));
      else if (!('ringFailed' in report)) told.report(report);
    }
  });
  thread.on('error', (error: unknown) => told.fail(threadDied(name, messageOf(error), error)));
  thread.on('exit', () => {
    if (!over) told.fail(threadDied(name, 'it ended before it was done'));
  });
  thread.postMessage(data);
  return thread;
}

function revive({ kind, code, message, suggestion }: ThreadFailure): HpcsError {
  return new HpcsError(kind, code, message, suggestion === undefined ? {} : { suggestion });
}

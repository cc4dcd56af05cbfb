/**
 * Where the content of an image's files waits, compressed, until the file system around it is known: SquashFS names in its first
 * bytes what stands at its end. Threads compress and keep the blocks in unlinked files, encrypted with keys that are in memory only.
 */
import { createDecipheriv, randomBytes } from 'node:crypto';
import { open, unlink, type FileHandle } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { inflateSync, zstdDecompressSync } from 'node:zlib';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import { asBuffer, free, type Bytes } from '../seal/bytes.ts';
import { threadDied } from '../seal/thread-failure.ts';
import { fileBlockSize, storedBit, type FilePlace, type FragmentPlace, type SifCompression } from './squashfs.ts';

/** What a thread is started with. */
export interface BlockTask {
  /** Of the file, open for writing. */
  descriptor: number;
  key: Uint8Array;
  compression: SifCompression;
}

/** Blocks to be compressed, one after the other in `memory`. */
export interface BlockBatch {
  memory: ArrayBuffer;
  sizes: readonly number[];
  /** Whether a block of zeros may be left out. One that is a fragment may not: its word would say that it is nowhere. */
  holes: readonly boolean[];
}

/** What became of a batch: the word of each block as SquashFS has it, and where in the thread's file the first one lies. */
export type BlockAnswer = { memory: ArrayBuffer; words: readonly number[]; start: number } | { failure: string };

/** Bytes that go to a thread at once. */
const batchSize = 4 * fileBlockSize;
/** Batches that a thread has before it at any time. */
const inFlight = 2;
const mostThreads = 8;

/** A block that was handed to a thread; the thread's answer fills it in. */
interface Block {
  readonly plainSize: number;
  /** Whether small files lie in it. */
  readonly shared: boolean;
  shelf: Shelf | undefined;
  offset: number;
  word: number;
}

/** Small files in one block. */
interface Fragment {
  readonly block: Block;
  readonly contents: StoredContent[];
}

/** The content of a file, in the store. */
export interface StoredContent {
  readonly size: number;
  readonly blocks: readonly Block[];
  fragment: { of: Fragment; offset: number } | undefined;
}

/** Where contents lie in a file system, and the bytes that lie there. */
export interface DataLayout {
  /** Of a content that was laid out. */
  readonly place: (content: StoredContent) => FilePlace;
  readonly fragments: readonly FragmentPlace[];
  readonly end: number;
  readonly bytes: Bytes;
}

/** Compresses and keeps contents. Disposing of it ends its threads and frees its files. */
export class BlockStore implements AsyncDisposable {
  readonly #compression: SifCompression;
  readonly #shelves: Shelf[];
  #batch: Batch = new Batch(new ArrayBuffer(batchSize));
  #small: { memory: Buffer; used: number; contents: StoredContent[] } = emptySmall();

  private constructor(compression: SifCompression, shelves: Shelf[]) {
    this.#compression = compression;
    this.#shelves = shelves;
  }

  /**
   * Starts the threads.
   *
   * @throws HpcsError `local` when no temporary file can be made
   */
  static async start(compression: SifCompression): Promise<BlockStore> {
    const shelves: Shelf[] = [];
    const count = Math.min(Math.max(availableParallelism(), 1), mostThreads);
    try {
      while (shelves.length < count) shelves.push(await Shelf.start(compression));
    } catch (error) {
      await Promise.all(shelves.map((shelf) => shelf[Symbol.asyncDispose]()));
      throw spaceError(systemCode(error) ?? messageOf(error), error);
    }
    return new BlockStore(compression, shelves);
  }

  /**
   * Takes a content of `size` bytes. It waits while the threads have enough to do.
   *
   * @throws HpcsError `local` when there is no room, or the content is shorter
   */
  async add(size: number, body: Bytes): Promise<StoredContent> {
    if (size < fileBlockSize) return this.#addSmall(size, body);
    const blocks: Block[] = [];
    const content: StoredContent = { size, blocks, fragment: undefined };
    let left = size;
    let target: Buffer = Buffer.alloc(0);
    let used = 0;
    for await (const piece of body) {
      for (let taken = 0; taken < piece.length;) {
        if (used === target.length) {
          const block: Block = newBlock(Math.min(left, fileBlockSize), false);
          target = await this.#room(block);
          blocks.push(block);
          left -= target.length;
          used = 0;
        }
        const part = asBuffer(piece).copy(target, used, taken);
        taken += part;
        used += part;
      }
    }
    if (left > 0 || used < target.length) throw short();
    return content;
  }

  /** Waits until everything that was taken is kept. */
  async finish(): Promise<void> {
    await this.#closeSmall();
    await this.#send();
    await Promise.all(this.#shelves.map((shelf) => shelf.idle()));
  }

  /**
   * Places contents one behind the other. Of what is not among them nothing is in the bytes: blocks that hold other small files too
   * are made anew. To be called when all is kept.
   */
  async layOut(contents: Iterable<StoredContent>, start: number): Promise<DataLayout> {
    const wanted = new Set(contents);
    await this.#repack(wanted);
    const places = new Map<StoredContent, FilePlace>();
    const fragmentIndex = new Map<Fragment, number>();
    const order: Block[] = [];
    let position = start;
    for (const content of wanted) {
      const { size, blocks, fragment } = content;
      let index = fragment === undefined ? undefined : fragmentIndex.get(fragment.of);
      if (fragment !== undefined && index === undefined) fragmentIndex.set(fragment.of, (index = fragmentIndex.size));
      places.set(content, {
        size,
        start: blocks.length === 0 ? 0 : position,
        blocks: blocks.map(({ word }) => word),
        fragment: fragment === undefined || index === undefined ? undefined : { index, offset: fragment.offset },
      });
      for (const block of blocks) position += keptSize(block);
      order.push(...blocks);
    }
    const fragments: FragmentPlace[] = [];
    for (const { block } of fragmentIndex.keys()) {
      fragments.push({ start: position, word: block.word });
      position += keptSize(block);
      order.push(block);
    }
    const place = (content: StoredContent): FilePlace => {
      const found = places.get(content);
      if (found === undefined) throw new RangeError('a content was not laid out');
      return found;
    };
    return { place, fragments, end: position, bytes: readBlocks(order) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#shelves.map((shelf) => shelf[Symbol.asyncDispose]()));
  }

  async #addSmall(size: number, body: Bytes): Promise<StoredContent> {
    const content: StoredContent = { size, blocks: [], fragment: undefined };
    if (this.#small.used + size > fileBlockSize) await this.#closeSmall();
    const { memory, used, contents } = this.#small;
    let end = used;
    for await (const piece of body) end += asBuffer(piece).copy(memory, end);
    if (end - used !== size) throw short();
    if (size === 0) return content;
    this.#small.used = end;
    contents.push(content);
    // Which block it is becomes known when that is full.
    content.fragment = { of: noFragment, offset: used };
    return content;
  }

  async #closeSmall(): Promise<void> {
    const { memory, used, contents } = this.#small;
    if (used === 0) return;
    const block = newBlock(used, true);
    const fragment: Fragment = { block, contents };
    for (const content of contents) content.fragment = { of: fragment, offset: content.fragment?.offset ?? 0 };
    (await this.#room(block)).set(memory.subarray(0, used));
    this.#small = { memory, used: 0, contents: [] };
  }

  /** Memory of the next batch for a block, to be filled before another is asked for. */
  async #room(block: Block): Promise<Buffer> {
    if (this.#batch.used + block.plainSize > batchSize) await this.#send();
    return this.#batch.take(block);
  }

  async #send(): Promise<void> {
    if (this.#batch.blocks.length === 0) return;
    let shelf = leastBusy(this.#shelves);
    while (shelf.waiting >= inFlight) {
      await Promise.race(this.#shelves.map((one) => one.change()));
      shelf = leastBusy(this.#shelves);
    }
    this.#batch = new Batch(shelf.send(this.#batch));
  }

  /** Makes fragments without those of their files that are not wanted. */
  async #repack(wanted: ReadonlySet<StoredContent>): Promise<void> {
    const seen = new Set<Fragment>();
    for (const { fragment } of wanted) {
      if (fragment === undefined || seen.has(fragment.of)) continue;
      seen.add(fragment.of);
      const { block, contents } = fragment.of;
      const stay = contents.filter((content) => wanted.has(content));
      if (stay.length === contents.length) continue;
      const plain = expand(Buffer.concat(await Array.fromAsync(readBlocks([block]))), block, this.#compression);
      for (const content of stay) {
        const offset = content.fragment?.offset ?? 0;
        const copy = await this.#addSmall(content.size, (async function* () {
          yield plain.subarray(offset, offset + content.size);
        })()); // prettier-ignore
        this.#small.contents[this.#small.contents.indexOf(copy)] = content;
        content.fragment = copy.fragment;
      }
    }
    await this.finish();
  }
}

/** A thread and its file. */
class Shelf implements AsyncDisposable {
  readonly #thread: Worker;
  readonly #file: FileHandle;
  readonly #key: Buffer;
  readonly #sent: Block[][] = [];
  #spare: ArrayBuffer | undefined;
  #failure: HpcsError | undefined;
  #changed = Promise.withResolvers<void>();
  #over = false;

  private constructor(file: FileHandle, key: Buffer, thread: Worker) {
    this.#file = file;
    this.#key = key;
    this.#thread = thread;
    thread.on('message', (answer: BlockAnswer) => this.#answered(answer));
    thread.on('error', (error: unknown) => this.#fail(threadDied('block-thread', messageOf(error), error)));
    thread.on('exit', () => {
      if (!this.#over) this.#fail(threadDied('block-thread', 'it ended before it was done'));
    });
  }

  static async start(compression: SifCompression): Promise<Shelf> {
    const path = join(tmpdir(), `hpcs-blocks-${randomBytes(12).toString('hex')}`);
    const file = await open(path, 'wx+', 0o600);
    try {
      await unlink(path);
      const key = randomBytes(32);
      const task: BlockTask = { descriptor: file.fd, key, compression };
      const thread = new Worker(new URL(`./block-thread${extname(import.meta.url)}`, import.meta.url), {
        name: 'block-thread',
        workerData: task,
        resourceLimits: { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 4 },
      });
      return new Shelf(file, key, thread);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Batches that it has not answered. */
  get waiting(): number {
    return this.#sent.length;
  }

  /** Settles when something was answered. @throws HpcsError `local` */
  async change(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    await this.#changed.promise;
  }

  /** Settles when everything was answered. @throws HpcsError `local` */
  async idle(): Promise<void> {
    while (this.waiting > 0 || this.#failure !== undefined) await this.change();
  }

  /** @returns memory for another batch */
  send(batch: Batch): ArrayBuffer {
    const { memory, blocks } = batch;
    this.#sent.push(blocks);
    const sizes = blocks.map(({ plainSize }) => plainSize);
    this.#thread.postMessage({ memory, sizes, holes: blocks.map(({ shared }) => !shared) } satisfies BlockBatch, [memory]);
    const spare = this.#spare ?? new ArrayBuffer(batchSize);
    this.#spare = undefined;
    return spare;
  }

  async read(offset: number, size: number): Promise<Buffer> {
    // The cipher begins anew at each sixteenth byte.
    const before = offset % 16;
    const counter = Buffer.alloc(16);
    counter.writeBigUInt64BE(BigInt((offset - before) / 16), 8);
    const { bytesRead, buffer } = await this.#file.read(Buffer.allocUnsafeSlow(before + size), 0, before + size, offset - before);
    if (bytesRead < before + size) throw short();
    const plain = createDecipheriv('aes-256-ctr', this.#key, counter).update(buffer).subarray(before);
    free(buffer);
    return plain;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true;
    await this.#thread.terminate();
    await this.#file.close();
  }

  #answered(answer: BlockAnswer): void {
    if ('failure' in answer) return this.#fail(spaceError(answer.failure));
    let offset = answer.start;
    for (const [index, block] of (this.#sent.shift() ?? []).entries()) {
      block.shelf = this;
      block.offset = offset;
      block.word = answer.words[index] ?? 0;
      offset += keptSize(block);
    }
    this.#spare = answer.memory;
    this.#tell();
  }

  #fail(error: HpcsError): void {
    this.#failure ??= error;
    this.#tell();
  }

  #tell(): void {
    const { resolve } = this.#changed;
    this.#changed = Promise.withResolvers();
    resolve();
  }
}

/** Blocks that are gathered for a thread. */
class Batch {
  readonly memory: ArrayBuffer;
  readonly blocks: Block[] = [];
  used = 0;

  constructor(memory: ArrayBuffer) {
    this.memory = memory;
  }

  take(block: Block): Buffer {
    const room = Buffer.from(this.memory, this.used, block.plainSize);
    this.blocks.push(block);
    this.used += block.plainSize;
    return room;
  }
}

const noFragment: Fragment = { block: newBlock(0, true), contents: [] };

function newBlock(plainSize: number, shared: boolean): Block {
  return { plainSize, shared, shelf: undefined, offset: 0, word: 0 };
}

function emptySmall(): { memory: Buffer; used: number; contents: StoredContent[] } {
  return { memory: Buffer.alloc(fileBlockSize), used: 0, contents: [] };
}

function keptSize({ word }: Block): number {
  return word & (storedBit - 1);
}

function leastBusy(shelves: readonly Shelf[]): Shelf {
  const [first, ...others] = shelves;
  if (first === undefined) throw new RangeError('a store has threads');
  return others.reduce((least, shelf) => (shelf.waiting < least.waiting ? shelf : least), first);
}

/** The bytes of blocks as they are kept, those that lie side by side at once. */
async function* readBlocks(blocks: readonly Block[]): AsyncGenerator<Buffer, void, undefined> {
  let run: { shelf: Shelf; offset: number; size: number } | undefined;
  for (const block of blocks) {
    const size = keptSize(block);
    if (size === 0 || block.shelf === undefined) continue;
    if (run?.shelf === block.shelf && run.offset + run.size === block.offset && run.size < batchSize) {
      run.size += size;
      continue;
    }
    if (run !== undefined) yield await run.shelf.read(run.offset, run.size);
    run = { shelf: block.shelf, offset: block.offset, size };
  }
  if (run !== undefined) yield await run.shelf.read(run.offset, run.size);
}

function expand(kept: Buffer, { word, plainSize }: Block, compression: SifCompression): Buffer {
  if ((word & storedBit) !== 0) return kept;
  const options = { maxOutputLength: plainSize };
  return compression === 'zstd' ? zstdDecompressSync(kept, options) : inflateSync(kept, options);
}

function short(): HpcsError {
  return new HpcsError('local', 'image-stream', 'a file of the image did not come whole', {
    suggestion: 'try again, and see the log of the Docker engine',
  });
}

function spaceError(reason: string, cause?: unknown): HpcsError {
  if (reason === 'ENOSPC' || reason === 'EDQUOT') {
    return new HpcsError('local', 'build-space', `no room in ${tmpdir()} for the file system of the image`, {
      cause,
      suggestion: 'free disk space there, or name another directory in the variable TMPDIR',
    });
  }
  return new HpcsError('local', 'build-file', `cannot keep the file system of the image in ${tmpdir()}: ${reason}`, {
    cause,
    suggestion: 'name another directory in the variable TMPDIR',
  });
}

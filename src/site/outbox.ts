import { HpcsError } from '../errors.ts';
import type { BlockMemory } from '../seal/bytes.ts';

/** A run of bytes that is sent as one, and acknowledged as one. */
export interface Segment {
  /** Where it belongs in the file. */
  offset: number;
  size: number;
  blocks: Uint8Array[];
}

/** A channel that carries segments, told from others by nothing but itself. */
export type Carrier = object;

/** A segment that is not yet acknowledged, or is behind one that is not. */
interface Held {
  segment: Segment;
  acknowledged: boolean;
  /** Who has it now. */
  carrier?: Carrier | undefined;
}

/**
 * Unacknowledged bytes that are held at most: on the shortest way, a large segment on its way on each of two channels, and one more that is
 * being gathered. Over a long way a segment begins to go long before its answer can come: there it is eight channels' windows of 2 MiB, and
 * twice as much.
 */
const window = { first: 24 * 1024 * 1024, wide: 48 * 1024 * 1024 };

/**
 * What is to be sent: the content cut into segments, each of which is held until the site has it, so that it can be sent once more
 * after a cut without being made, that is encrypted, a second time.
 */
export class Outbox {
  /** Bytes a segment should have. May change at any time. */
  segmentSize = 2 * 1024 * 1024;
  readonly #memory: BlockMemory | undefined;
  readonly #onProgress: ((acknowledged: number, read: number) => void) | undefined;
  readonly #waiting: Held[] = [];
  /** All that are not yet acknowledged, in order; with those behind them that are. */
  readonly #held: Held[] = [];
  readonly #over = new WeakSet<Carrier>();
  #heldBytes = 0;
  #window = window.first;
  #total = 0;
  #ended = false;
  #failure: { error: unknown } | undefined;
  #change = Promise.withResolvers<void>();

  /**
   * @param content read as far ahead as there is room for
   * @param memory told how many of the oldest blocks are not needed any more
   * @param onProgress told how many bytes are acknowledged, of those that were read so far
   */
  constructor(
    content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    memory?: BlockMemory,
    onProgress?: (acknowledged: number, read: number) => void,
  ) {
    this.#memory = memory;
    this.#onProgress = onProgress;
    void this.#fill(content);
  }

  /** Bytes of the content so far; all of them once {@link take} has given the last. */
  get total(): number {
    return this.#total;
  }

  /** Whether the whole content is known, and no more than one segment of it is left to be taken. */
  get nearlyDone(): boolean {
    return this.#ended && this.#waiting.length <= 1;
  }

  /** The next segment to send; undefined when all were acknowledged, or the carrier's end was told. @throws what the content threw */
  async take(carrier: Carrier): Promise<Segment | undefined> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure.error;
      if (this.#over.has(carrier)) return undefined;
      const held = this.#waiting.shift();
      if (held !== undefined) {
        held.carrier = carrier;
        return held.segment;
      }
      if (this.#ended && this.#held.length === 0) return undefined;
      await this.#change.promise;
    }
  }

  /**
   * The site has a segment, as the one that carries it was told. Nobody else is believed: of a segment that goes once more, the blocks
   * are needed until the second answer, whatever comes of the first.
   */
  acknowledge(carrier: Carrier, offset: number, size: number): void {
    const found = this.#held.find((held) => held.segment.offset === offset);
    if (found === undefined || found.acknowledged || found.carrier !== carrier) return;
    if (found.segment.size !== size) {
      throw new HpcsError('integrity', 'upload-incomplete', `the site took ${size} of ${found.segment.size} bytes at ${offset}`, {
        suggestion: 'check the quota and the file system on the site, then run the command again',
      });
    }
    found.acknowledged = true;
    while (this.#held[0]?.acknowledged === true) {
      const { segment } = this.#held.shift() as Held;
      this.#heldBytes -= segment.size;
      this.#memory?.release(segment.blocks.length);
    }
    this.#onProgress?.(this.#total - this.#heldBytes, this.#total);
    this.#changed();
  }

  /** A carrier is at its end, and reads no block any more: what it was not told of is to be sent again, by others. */
  giveBack(carrier: Carrier): void {
    this.#over.add(carrier);
    for (const held of this.#held) {
      if (held.carrier !== carrier || held.acknowledged) continue;
      held.carrier = undefined;
      this.#waiting.push(held);
    }
    this.#waiting.sort((a, b) => a.segment.offset - b.segment.offset);
    this.#changed();
  }

  /** Holds more, for a long way. */
  widen(): void {
    this.#window = window.wide;
    this.#memory?.widen();
    this.#changed();
  }

  /** Nothing will be taken any more: ends the content. */
  close(reason: unknown): void {
    this.#failure ??= { error: reason };
    this.#changed();
  }

  async #fill(content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void> {
    let blocks: Uint8Array[] = [];
    let size = 0;
    const flush = (): void => {
      if (size === 0) return;
      const held = { segment: { offset: this.#total, size, blocks }, acknowledged: false };
      this.#total += size;
      this.#heldBytes += size;
      this.#held.push(held);
      this.#waiting.push(held);
      [blocks, size] = [[], 0];
      this.#changed();
    };
    try {
      for await (const block of content) {
        if (this.#failure !== undefined) return;
        blocks.push(block);
        size += block.length;
        if (size >= this.segmentSize) flush();
        // Whole segments only: what is being gathered counts when it is whole.
        while (this.#heldBytes >= this.#window && this.#failure === undefined) await this.#change.promise;
      }
      flush();
      this.#ended = true;
    } catch (error) {
      this.#failure ??= { error };
    }
    this.#changed();
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers<void>();
  }
}

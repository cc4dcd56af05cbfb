import assert from 'node:assert/strict';
import { zstdDecompressSync } from 'node:zlib';
import { CompressingThreads, compressFrame, frameSize, makeCompressorMemory } from '../../../src/seal/compressor.ts';
import { RingConsumer, RingProducer } from '../../../src/seal/ring.ts';

const frameOf = (count: number): Buffer => Buffer.alloc(frameSize - count, `frame ${count} `);

/** A thread, whose work the test does when it wants to. */
class Thread {
  readonly memory = makeCompressorMemory();
  readonly #frames = new RingConsumer(this.memory.frames, 0);
  readonly #compressed = new RingProducer(this.memory.compressed);

  /** Compresses some frames, or all up to the last one. @returns how many those were */
  work(most = Infinity): number {
    let done = 0;
    for (let frame; done < most && (frame = this.#frames.next()) !== undefined; done++) {
      this.#compressed.put(compressFrame(frame));
      this.#compressed.flush();
      this.#frames.release();
    }
    return done;
  }
}

describe('compressing threads', () => {
  it('are helped by who feeds them while they have enough to do, and all frames come in their order', () => {
    const threads = [new Thread(), new Thread()];
    let starts = 0;
    const compressor = new CompressingThreads(
      threads.map(({ memory }) => memory),
      () => starts++,
    );
    for (let count = 0; count < compressor.capacity; count++) compressor.put(frameOf(count));
    assert.equal(starts, 1);
    compressor.end();
    const theirs = threads.map((thread) => thread.work());
    assert.ok(
      theirs.every((frames) => frames > 0 && frames < compressor.capacity / 2),
      theirs.join(' and '),
    );
    for (let count = 0; count < compressor.capacity; count++)
      assert.ok(zstdDecompressSync(compressor.take()).equals(frameOf(count)), `frame ${count}`);
    assert.throws(() => compressor.take(), RangeError);
  });

  it('get what was read into their memory, once they have room again', () => {
    const thread = new Thread();
    const compressor = new CompressingThreads([thread.memory], () => undefined);
    assert.equal(compressor.room(), undefined, 'before the first frame');
    let count = 0;
    do compressor.put(frameOf(count++));
    while (compressor.room() !== undefined);
    thread.work(2);
    const room = compressor.room();
    assert.equal(room?.buffer, thread.memory.frames.blocks);
    // Asked for once more, as after a frame that is stored instead, it is the same.
    assert.equal(compressor.room()?.byteOffset, room?.byteOffset);
    const last = frameOf(count++);
    compressor.put(room.subarray(0, last.copy(room)));
    compressor.end();
    // What comes out has no more room than what goes in.
    compressor.take();
    compressor.take();
    assert.equal(thread.work(), count - 2);
    for (let left = count - 2; left > 1; left--) compressor.take();
    assert.ok(zstdDecompressSync(compressor.take()).equals(last));
  });
});

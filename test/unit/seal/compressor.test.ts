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
  it('are helped by who feeds them while they have no room, and all frames come in their order', () => {
    const [first, second] = [new Thread(), new Thread()];
    let starts = 0;
    const compressor = new CompressingThreads([first.memory, second.memory], () => starts++);
    let count = 0;
    const put = (): void => compressor.put(frameOf(count++));
    assert.equal(compressor.room(), undefined, 'before the first frame');
    do put();
    while (compressor.room() !== undefined);
    // Two here, and one again there; although it is the other one's turn.
    put();
    put();
    second.work(1);
    const room = compressor.room();
    assert.equal(room?.buffer, second.memory.frames.blocks);
    // Asked for once more, as after a frame that is stored instead, it is the same.
    assert.equal(compressor.room()?.byteOffset, room?.byteOffset);
    const read = frameOf(count++);
    compressor.put(room.subarray(0, read.copy(room)));
    while (count < compressor.capacity) put();
    compressor.end();
    assert.equal(starts, 1);

    const slots = first.work();
    // What comes out has no more room than what goes in.
    second.work(slots - 1);
    for (let taken = 0; taken < count; taken++) {
      assert.ok(zstdDecompressSync(compressor.take()).equals(frameOf(taken)), `frame ${taken}`);
      if (taken === 2) assert.equal(second.work(), 1);
    }
    assert.throws(() => compressor.take(), RangeError);
  });
});

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { constants, createZstdCompress, gzipSync, zstdCompressSync } from 'node:zlib';
import { compressed, decompressed } from '../../../src/seal/compress.ts';
import { compressingHere, type Compressor } from '../../../src/seal/compressor.ts';
import { Pace } from '../../../src/seal/pace.ts';
import { collectGarbage } from '../../support/garbage.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';

const mib = 1024 * 1024;
const text = Buffer.from(Array.from({ length: 700_000 }, (_, index) => `${index},${(index * 7919) % 10007}\n`).join(''));
const short = text.subarray(0, 400_000);
/** More than a frame of ours; borders of ours mean nothing to what others made. */
const longer = text.subarray(0, 5 * mib);
const random = randomBytes(9 * mib);
const mixed = Buffer.concat([text, random, text.subarray(0, 1000)]);
const blend = Buffer.concat([longer, random.subarray(0, mib), short]);
const inputs = { text, random, mixed, empty: Buffer.alloc(0), 'one byte': Buffer.of(7), zeros: Buffer.alloc(12 * mib + 1) };

/** A frame that says neither its size nor, unless asked, has a checksum: as `zstd` makes of a pipe. */
const piped = (input: Buffer, level: number, checksum: boolean): Promise<Buffer> => {
  const params = { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_checksumFlag]: checksum ? 1 : 0 };
  return collect(Readable.from(inPieces(input, [50_000])).pipe(createZstdCompress({ params })));
};

describe('compression', () => {
  for (const [name, input] of Object.entries(inputs)) {
    for (const mode of ['auto', 'zstd'] as const) {
      it(`is undone: ${name}, ${mode}`, async () => {
        const small = await collect(compressed(inPieces(input), mode));
        assert.ok((await collect(decompressed(inPieces(small, [99_991])))).equals(input));
      });
    }
  }

  it('makes text smaller, and stores what does not shrink at a cost of less than one in a thousand', async () => {
    assert.ok((await collect(compressed(inPieces(text), 'auto'))).length < text.length / 2);
    const stored = await collect(compressed(inPieces(random), 'auto'));
    assert.ok(stored.length > random.length && stored.length < random.length * 1.001);
    assert.ok((await collect(compressed(inPieces(mixed), 'auto'))).length < random.length + text.length / 2);
  });

  it('stores, with paced, what gets only somewhat smaller while bytes leave fast, and compresses it when they leave slowly', async () => {
    const part = 50_000;
    const halves = Array.from({ length: 200 }, (_, index) =>
      (index % 2 === 0 ? text : random).subarray((index * part) / 2, (index * part) / 2 + part),
    );
    const prose = Buffer.concat(Array.from({ length: 24 }, () => halves).flat());
    // A clock by which sixteen blocks leave at once, as late as they would have one by one. A connection is made in the meantime.
    const leaving = (megabytes: number): Pace => {
      let [time, blocks] = [0, 0];
      return new Pace(() => {
        if (++blocks === 32) time += 150;
        if (blocks % 16 === 0) time += (16 * mib * 1e-3) / megabytes;
        return time;
      });
    };
    // On a machine that takes so many milliseconds for a sample.
    const size = async (input: Buffer, pace: Pace, sample = 0.1): Promise<number> => {
      let time = 0;
      const stopwatch = (): number => (time += sample);
      return (await collect(compressed(inPieces(input), 'paced', { pace, stopwatch }))).length / input.length;
    };
    assert.ok((await size(prose, leaving(500))) > 0.99);
    for (const megabytes of [20, 110]) {
      const slowly = await size(prose, leaving(megabytes));
      assert.ok(slowly < 0.85, `${slowly} at ${megabytes} MB/s`);
    }
    assert.ok((await size(prose, leaving(50), 0.4)) > 0.99);
    assert.ok((await size(prose, leaving(20), 0.4)) < 0.85);
    assert.ok((await size(Buffer.concat([text, text, text]), leaving(500))) < 0.5);
  });

  it('wakes no thread, with paced, for single frames while bytes leave fast', async () => {
    let time = 0;
    const pace = new Pace(() => (time += 1));
    const nobody = { capacity: 1, put: () => assert.fail('a thread was asked'), take: () => assert.fail('a thread was asked') };
    // Each fifth frame, so that each fifth sample is of text.
    const input = Buffer.concat(Array.from({ length: 40 }, (_, index) => (index % 5 === 4 ? text : random).subarray(0, mib)));
    const stored = await collect(compressed(inPieces(input), 'paced', { compressor: nobody, pace }));
    assert.ok(stored.length > input.length);
    assert.ok((await collect(decompressed(inPieces(stored)))).equals(input));
  });

  it('takes the seven frames after one that shrinks well to be as that one, and no frame for one that does not', async () => {
    let asked = 0;
    const here = compressingHere();
    const counting: Compressor = {
      ...here,
      put: (frame) => {
        asked++;
        here.put(frame);
      },
    };
    const first = text.subarray(0, mib);
    for (const [input, count] of [
      [Buffer.concat([first, random]), 8],
      [Buffer.concat([random, first]), 1],
      [Buffer.concat(Array.from({ length: 12 }, () => first)), 12],
    ] as const) {
      asked = 0;
      const small = await collect(compressed(inPieces(input), 'auto', { compressor: counting }));
      assert.equal(asked, count);
      assert.ok((await collect(decompressed(inPieces(small)))).equals(input));
    }
  });

  it('leaves nothing of its samples to the garbage collector, which would let them pile up', async () => {
    const block = random.subarray(0, mib);
    const many = (async function* () {
      for (let count = 0; count < 1000; count++) yield block;
    })();
    collectGarbage();
    const before = process.memoryUsage().arrayBuffers;
    let most = 0;
    for await (const _part of compressed(many, 'auto', { reuseAfter: 2 })) {
      most = Math.max(most, process.memoryUsage().arrayBuffers - before);
    }
    assert.ok(most < 8 * mib, `${most}`);
  });

  it('asks other threads for nothing where only the end is to be compressed', async () => {
    const nobody = {
      capacity: 1,
      put: () => assert.fail('a thread was asked'),
      take: () => assert.fail('a thread was asked'),
    };
    for (const input of [short, Buffer.concat([random.subarray(0, 3 * mib), short])]) {
      const small = await collect(compressed(inPieces(input), 'auto', { compressor: nobody }));
      assert.ok(small.length < input.length - short.length / 2);
      assert.ok((await collect(decompressed(inPieces(small)))).equals(input));
    }
    await assert.rejects(collect(compressed(inPieces(longer), 'auto', { compressor: nobody })), /a thread was asked/);
  });

  it('leaves the stream as it is with none', async () => {
    assert.ok((await collect(compressed(inPieces(text), 'none'))).equals(text));
  });

  it('undoes what others made: zstd with and without sizes and checksums, at any level, several frames, skippable ones', async () => {
    const skippable = Buffer.concat([Buffer.from([0x53, 0x2a, 0x4d, 0x18, 5, 0, 0, 0]), Buffer.from('hello')]);
    const made = [
      await piped(longer, 3, true),
      await piped(short, 19, false),
      await piped(blend, -5, true),
      await piped(random.subarray(0, 200), 3, false),
      zstdCompressSync(longer),
    ];
    const plain = [longer, short, blend, random.subarray(0, 200), longer];
    for (const [index, one] of made.entries())
      assert.ok((await collect(decompressed(inPieces(one, [4099])))).equals(plain[index] ?? Buffer.alloc(0)), `${index}`);
    const all = Buffer.concat([skippable, ...made.flatMap((one) => [one, skippable])]);
    assert.ok((await collect(decompressed(inPieces(all, [70_001])))).equals(Buffer.concat(plain)));
  });

  it('hands out what is stored without copying it', async () => {
    const stored = await collect(compressed(inPieces(random), 'auto'));
    const parts: Uint8Array[] = [];
    for await (const part of decompressed(inPieces(stored, [stored.length]))) parts.push(part);
    assert.ok(Buffer.concat(parts).equals(random));
    assert.ok(parts.every(({ buffer }) => buffer === stored.buffer));
  });

  it('judges what is stored as what is compressed: by its size, checksum and dictionary', async () => {
    const stored = await collect(compressed(inPieces(random.subarray(0, 200_000)), 'auto'));
    // Content size in four bytes after the descriptor.
    assert.equal(stored.readUInt32LE(5), 200_000);
    for (const size of [0, 1, 199_999, 200_001, 2 ** 31]) {
      const altered = Buffer.from(stored);
      altered.writeUInt32LE(size, 5);
      await assert.rejects(collect(decompressed(inPieces(altered))), failsWith('integrity', 'corrupt'), `size ${size}`);
    }
    // Descriptors that announce a dictionary, or that no frame has.
    const dictionary = Buffer.concat([stored.subarray(0, 5), Buffer.of(9), stored.subarray(5)]);
    dictionary.writeUInt8(dictionary.readUInt8(4) | 1, 4);
    const reserved = Buffer.from(stored);
    reserved.writeUInt8(reserved.readUInt8(4) | 8, 4);
    for (const altered of [dictionary, reserved])
      await assert.rejects(collect(decompressed(inPieces(altered))), failsWith('integrity', 'corrupt'));
    const checked = zstdCompressSync(random.subarray(0, 300_000), { params: { [constants.ZSTD_c_checksumFlag]: 1 } });
    assert.ok(checked.includes(random.subarray(1000, 2000)), 'stored');
    assert.ok((await collect(decompressed(inPieces(checked)))).equals(random.subarray(0, 300_000)));
    checked.writeUInt8(checked.readUInt8(1000) ^ 1, 1000);
    await assert.rejects(collect(decompressed(inPieces(checked))), failsWith('integrity', 'corrupt'));
  });

  it('undoes gzip', async () => {
    assert.ok((await collect(decompressed(inPieces(gzipSync(longer), [4099])))).equals(longer));
    const two = Buffer.concat([gzipSync(short), gzipSync(random.subarray(0, mib))]);
    assert.ok((await collect(decompressed(inPieces(two)))).equals(Buffer.concat([short, random.subarray(0, mib)])));
  });

  it('passes on what is not compressed', async () => {
    for (const plain of [
      text,
      random.subarray(0, 3),
      Buffer.from('28b5', 'hex'),
      Buffer.from('28b52ffe00', 'hex'),
      Buffer.alloc(0),
    ])
      assert.ok((await collect(decompressed(inPieces(plain, [1000])))).equals(plain));
  });

  it('refuses what is cut, goes on with something else, or lies about its size', async () => {
    for (const whole of [await collect(compressed(inPieces(longer), 'auto')), await piped(longer, 3, true), gzipSync(longer)]) {
      for (const size of [5, 9, 100, whole.length - 1])
        await assert.rejects(collect(decompressed(inPieces(whole.subarray(0, size)))), failsWith('integrity', 'corrupt'), `cut to ${size}`); // prettier-ignore
    }
    const whole = await collect(compressed(inPieces(text.subarray(0, 1000)), 'zstd'));
    await assert.rejects(collect(decompressed(inPieces(Buffer.concat([whole, text])))), failsWith('integrity', 'corrupt'));
    // Content size in two bytes, less 256, after the descriptor.
    assert.equal(whole.readUInt16LE(5), 1000 - 256);
    for (const size of [0, 999 - 256, 1001 - 256, 65_535]) {
      const altered = Buffer.from(whole);
      altered.writeUInt16LE(size, 5);
      await assert.rejects(collect(decompressed(inPieces(altered))), failsWith('integrity', 'corrupt'), `size ${size}`);
    }
  });

  it('does not hang, and leaves nothing unhandled, when its consumer stops', async () => {
    for (const source of [compressed(inPieces(mixed), 'zstd'), decompressed(inPieces(await piped(mixed, 1, true)))]) {
      for await (const piece of source) if (piece.length > 0) break;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  });
});

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { compressed, decompressed } from '../../../src/seal/compress.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';

const mib = 1024 * 1024;
const text = Buffer.from(Array.from({ length: 700_000 }, (_, index) => `${index},${(index * 7919) % 10007}\n`).join(''));
const short = text.subarray(0, 400_000);
const random = randomBytes(9 * mib);
const mixed = Buffer.concat([text, random, text.subarray(0, 1000)]);
const inputs = { text, random, mixed, empty: Buffer.alloc(0), 'one byte': Buffer.of(7), zeros: Buffer.alloc(12 * mib + 1) };

/** What the `zstd` program makes of it. */
const zstd = (input: Buffer, ...options: string[]): Buffer =>
  execFileSync('zstd', ['-q', '-c', ...options], { input, maxBuffer: 64 * mib });

describe('compression', () => {
  for (const [name, input] of Object.entries(inputs)) {
    for (const mode of ['auto', 'zstd'] as const) {
      it(`is undone by us and by zstd: ${name}, ${mode}`, async () => {
        const small = await collect(compressed(inPieces(input), mode));
        assert.ok((await collect(decompressed(inPieces(small, [99_991])))).equals(input));
        assert.ok(zstd(small, '-d').equals(input));
      });
    }
  }

  it('makes text smaller, and stores what does not shrink at a cost of less than one in a thousand', async () => {
    assert.ok((await collect(compressed(inPieces(text), 'auto'))).length < text.length / 2);
    const stored = await collect(compressed(inPieces(random), 'auto'));
    assert.ok(stored.length > random.length && stored.length < random.length * 1.001);
    assert.ok((await collect(compressed(inPieces(mixed), 'auto'))).length < random.length + text.length / 2);
  });

  it('leaves the stream as it is with none', async () => {
    assert.ok((await collect(compressed(inPieces(text), 'none'))).equals(text));
  });

  it('undoes what others made: zstd with and without sizes and checksums, at any level, several frames, skippable ones', async () => {
    const skippable = Buffer.concat([Buffer.from([0x53, 0x2a, 0x4d, 0x18, 5, 0, 0, 0]), Buffer.from('hello')]);
    const made = [
      zstd(text),
      zstd(short, '-19', '--no-check', '--no-content-size'),
      zstd(mixed, '--fast=5'),
      zstd(random.subarray(0, 200)),
      zstdCompressSync(text),
    ];
    const plain = [text, short, mixed, random.subarray(0, 200), text];
    for (const [index, one] of made.entries())
      assert.ok((await collect(decompressed(inPieces(one, [4099])))).equals(plain[index] ?? text), `${index}`);
    const all = Buffer.concat([skippable, ...made.flatMap((one) => [one, skippable])]);
    assert.ok((await collect(decompressed(inPieces(all, [70_001])))).equals(Buffer.concat(plain)));
  });

  it('undoes gzip', async () => {
    assert.ok((await collect(decompressed(inPieces(gzipSync(text), [4099])))).equals(text));
    assert.ok((await collect(decompressed(inPieces(Buffer.concat([gzipSync(text), gzipSync(random)]))))).length === text.length + random.length); // prettier-ignore
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
    for (const whole of [await collect(compressed(inPieces(text), 'auto')), zstd(text), gzipSync(text)]) {
      for (const size of [5, 9, 100, whole.length - 1])
        await assert.rejects(collect(decompressed(inPieces(whole.subarray(0, size)))), failsWith('integrity', 'corrupt'), `cut to ${size}`); // prettier-ignore
    }
    const whole = await collect(compressed(inPieces(text.subarray(0, 1000)), 'zstd'));
    await assert.rejects(collect(decompressed(inPieces(Buffer.concat([whole, text])))), failsWith('integrity', 'corrupt'));
    for (let at = 4; at < 12; at++) {
      const altered = Buffer.from(whole);
      altered[at] = (altered[at] ?? 0) ^ 0x11;
      const result = await collect(decompressed(inPieces(altered))).catch(failsWith('integrity', 'corrupt'));
      assert.ok(result === true || !result.equals(text.subarray(0, 1000)) || result.length === 1000);
    }
  });

  it('does not hang, and leaves nothing unhandled, when its consumer stops', async () => {
    for (const source of [compressed(inPieces(mixed), 'zstd'), decompressed(inPieces(zstd(mixed)))]) {
      for await (const piece of source) if (piece.length > 0) break;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  });
});

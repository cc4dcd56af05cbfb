import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import * as fc from 'fast-check';
import { HpcsError } from '../../../src/errors.ts';
import type { Secret } from '../../../src/secret.ts';
import { sealFormats } from '../../../src/seal/format.ts';
import { generateKey, type ArtefactKey } from '../../../src/seal/keys.ts';
import { open as openSealed, type OpenOptions } from '../../../src/seal/open.ts';
import { seal } from '../../../src/seal/seal.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';

const kib = 1024;
const mib = 1024 * kib;
/** Around the borders of chunks (64 KiB in age, 256 KiB here in OpenPGP), parts (1 MiB) and frames (4 MiB). */
const borders = [64 * kib, 256 * kib, mib, 4 * mib].flatMap((size) => [size - 7, size - 6, size - 1, size, size + 1]);
const sizes = [0, 1, 15, 16, 17, 511, 512, 513, ...borders, 2 * mib, 3 * mib + 12345, 9 * mib];

/** All that comes out here is used only when it has come to its end. */
const open = (input: AsyncIterable<Uint8Array>, keys: Secret | readonly Secret[], options: OpenOptions = {}) =>
  openSealed(input, keys, { checkedAtEnd: true, ...options });

for (const format of sealFormats) {
  describe(`seal and open, ${format}`, () => {
    let key: ArtefactKey;
    const random = randomBytes(9 * mib);
    const text = Buffer.from(Array.from({ length: 400_000 }, (_, index) => `${index},${(index * 7919) % 10007}\n`).join(''));

    before(async () => {
      key = await generateKey(format);
    });

    for (const compress of ['none', 'auto', 'zstd'] as const) {
      it(`gives back what was sealed, compress: ${compress}`, async () => {
        for (const size of sizes) {
          const plain = size % 2 === 0 ? random.subarray(0, size) : text.subarray(0, size);
          const sealed = seal(inPieces(plain), { format, recipients: [key.publicKey], compress });
          const bytes = await collect(sealed.bytes);
          assert.deepEqual(await sealed.summary, {
            sha512: createHash('sha512').update(bytes).digest('hex'),
            size: bytes.length,
          });
          const opened = await collect(open(inPieces(bytes, [100_003]), key.secretKey));
          assert.ok(opened.equals(plain), `size ${plain.length}`);
        }
      });
    }

    it('does not depend on how the bytes arrive', async () => {
      const near = fc.tuple(fc.constantFrom(64 * kib, 256 * kib, mib, 2 * mib), fc.integer({ min: -40, max: 40 }));
      const anySize = fc.oneof(
        fc.integer({ min: 0, max: 3 * mib }),
        near.map(([border, off]) => border + off),
      );
      const pieces = fc.array(fc.integer({ min: 1, max: 300_000 }), { minLength: 1, maxLength: 8 });
      await fc.assert(
        fc.asyncProperty(anySize, pieces, pieces, async (size, into, outOf) => {
          const plain = random.subarray(0, size);
          const sealed = await collect(
            seal(inPieces(plain, into), { format, recipients: [key.publicKey], compress: 'none' }).bytes,
          );
          assert.ok((await collect(open(inPieces(sealed, outOf), key.secretKey))).equals(plain));
        }),
        { numRuns: 30 },
      );
    });

    it('reads a sealed file byte by byte', async () => {
      const plain = random.subarray(0, 70_000);
      const sealed = await collect(seal(inPieces(plain, [1]), { format, recipients: [key.publicKey] }).bytes);
      assert.ok((await collect(open(inPieces(sealed, [1]), key.secretKey))).equals(plain));
    });

    it('never seals the same bytes alike', async () => {
      const twice = await Promise.all(
        [1, 2].map(() => collect(seal(inPieces(text), { format, recipients: [key.publicKey] }).bytes)),
      );
      assert.ok(!twice[0]?.equals(twice[1] ?? Buffer.alloc(0)));
    });

    it('seals to several recipients, each of whom can open', async () => {
      const keys = [key, await generateKey(format), await generateKey(format)];
      const plain = text.subarray(0, 100_000);
      const sealed = await collect(seal(inPieces(plain), { format, recipients: keys.map(({ publicKey }) => publicKey) }).bytes);
      for (const { secretKey } of keys) assert.ok((await collect(open(inPieces(sealed), secretKey))).equals(plain));
      const stranger = await generateKey(format);
      assert.ok((await collect(open(inPieces(sealed), [stranger.secretKey, key.secretKey]))).equals(plain));
    });

    it('tells a wrong key', async () => {
      const sealed = await collect(seal(inPieces(text), { format, recipients: [key.publicKey] }).bytes);
      for (const other of sealFormats) {
        const stranger = await generateKey(other);
        await assert.rejects(collect(open(inPieces(sealed), stranger.secretKey)), failsWith('integrity', 'wrong-key'));
      }
      await assert.rejects(collect(open(inPieces(sealed), [])), failsWith('usage', 'key-invalid'));
    });

    it('refuses what is no recipient', async () => {
      for (const recipients of [[], ['age1nonsense'], [key.secretKey.reveal().slice(0, 40)], [key.publicKey, '']]) {
        const { bytes, summary } = seal(inPieces(text), { format, recipients });
        await assert.rejects(collect(bytes), failsWith('usage', 'recipient-invalid'));
        await assert.rejects(summary, failsWith('usage', 'recipient-invalid'));
      }
    });

    it('reports progress in plain bytes', async () => {
      const seen: number[] = [];
      await collect(
        seal(inPieces(random), { format, recipients: [key.publicKey], onProgress: (bytes) => void seen.push(bytes) }).bytes,
      );
      assert.equal(seen.at(-1), random.length);
      assert.ok(seen.every((bytes, index) => bytes > (seen[index - 1] ?? 0)));
    });

    it('passes on a failure of its input', async () => {
      const failure = new HpcsError('local', 'source-changed', 'a file grew');
      const failing = async function* (): AsyncGenerator<Uint8Array> {
        yield random;
        throw failure;
      };
      const { bytes, summary } = seal(failing(), { format, recipients: [key.publicKey] });
      await assert.rejects(collect(bytes), failure);
      await assert.rejects(summary, failure);
    });

    it('ends its input when its output is given up, and leaves no unhandled rejection', async () => {
      let ended = false;
      const endless = async function* (): AsyncGenerator<Uint8Array> {
        try {
          for (;;) yield random.subarray(0, mib);
        } finally {
          ended = true;
        }
      };
      const unhandled: unknown[] = [];
      const listen = (error: unknown): void => void unhandled.push(error);
      process.on('unhandledRejection', listen);
      try {
        const { bytes } = seal(endless(), { format, recipients: [key.publicKey] });
        for await (const block of bytes) if (block.length > 1000) break;
        await new Promise(setImmediate);
        assert.ok(ended);
        assert.deepEqual(unhandled, []);
      } finally {
        process.off('unhandledRejection', listen);
      }
    });

    it('stops at its signal, with its reason', async () => {
      const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
      const abort = new AbortController();
      let pieces = 0;
      const endless = async function* (): AsyncGenerator<Uint8Array> {
        for (;;) {
          if (++pieces === 20) abort.abort(reason);
          yield random.subarray(0, mib);
        }
      };
      const { bytes, summary } = seal(endless(), { format, recipients: [key.publicKey], signal: abort.signal });
      await assert.rejects(collect(bytes), reason);
      await assert.rejects(summary, reason);
      assert.ok(pieces <= 21);

      const sealed = await collect(seal(inPieces(random), { format, recipients: [key.publicKey] }).bytes);
      await assert.rejects(collect(open(inPieces(sealed), key.secretKey, { signal: AbortSignal.abort(reason) })), reason);
    });

    it('shows no secret in its key', () => {
      assert.ok(!JSON.stringify(key).includes(key.secretKey.reveal().slice(20, 40)));
    });
  });
}

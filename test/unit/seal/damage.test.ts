import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { HpcsError } from '../../../src/errors.ts';
import { sealFormats, type SealFormat } from '../../../src/seal/format.ts';
import { generateKey, type ArtefactKey } from '../../../src/seal/keys.ts';
import { open, openTwice } from '../../../src/seal/open.ts';
import { seal } from '../../../src/seal/seal.ts';
import { collect, collectUntilError, failsWith, inPieces } from '../../support/streams.ts';

const kib = 1024;
const plain = randomBytes(1100 * kib);
const chunkSizes: Readonly<Record<SealFormat, number>> = { openpgp: 256 * kib, age: 64 * kib, 'openpgp-gpg': 256 * kib };
/** Four chunks and a part of one. */
const sizes: Readonly<Record<SealFormat, number>> = { openpgp: 1100 * kib, age: 300 * kib, 'openpgp-gpg': 1100 * kib };
/** Codes of damage; a change in what names or wraps the key cannot be told from another key. */
const damage = ['corrupt', 'truncated', 'trailing-data', 'wrong-key', 'unknown-format'];

/** Opens damaged bytes: that must fail, by name, and what came out before must be the true beginning. */
async function refuse(sealed: Uint8Array, key: ArtefactKey, what: string): Promise<HpcsError> {
  const { bytes, error } = await collectUntilError(openTwice(() => inPieces(sealed), key.secretKey));
  assert.ok(error instanceof HpcsError, `${what}: ${error instanceof Error ? error.message : 'was accepted'}`);
  assert.equal(error.kind, 'integrity', `${what}: ${error.message}`);
  assert.ok(damage.includes(error.code), `${what}: ${error.code}`);
  assert.ok(bytes.equals(plain.subarray(0, bytes.length)), `${what}: released bytes that were not sealed`);
  return error;
}

for (const format of sealFormats) {
  describe(`damaged sealed data, ${format}`, () => {
    let key: ArtefactKey;
    let sealed: Buffer;
    let small: Buffer;

    before(async () => {
      key = await generateKey(format);
      const part = plain.subarray(0, sizes[format]);
      sealed = await collect(seal(inPieces(part), { format, recipients: [key.publicKey], compress: 'none' }).bytes);
      small = await collect(
        seal(inPieces(plain.subarray(0, 100)), { format, recipients: [key.publicKey], compress: 'none' }).bytes,
      );
    });

    it('refuses a small file with any one byte changed', async () => {
      for (let at = 0; at < small.length; at++) {
        const altered = Buffer.from(small);
        altered[at] = (altered[at] ?? 0) ^ 0x01;
        // How many bits the number in a version 3 key packet has says nothing that its bytes do not.
        if (format === 'openpgp-gpg' && at === 13) continue;
        const { bytes, error } = await collectUntilError(openTwice(() => inPieces(altered), key.secretKey));
        assert.ok(
          error instanceof HpcsError && error.kind === 'integrity',
          `byte ${at}: ${error instanceof Error ? error.message : 'was accepted'}`,
        );
        assert.ok(bytes.equals(plain.subarray(0, bytes.length)), `byte ${at}`);
      }
    });

    it('refuses a file with bits of its first part and around each border changed', async () => {
      const chunk = chunkSizes[format];
      const places = new Set<number>();
      // Every byte is changed in the small file; here each third, another bit of each.
      for (let at = 0; at < 400; at += 3) places.add(at);
      for (let border = chunk; border < sealed.length; border += chunk)
        for (let near = -20; near < 420; near += 20) if (border + near < sealed.length) places.add(border + near);
      for (let at = sealed.length - 60; at < sealed.length; at++) places.add(at);
      for (const at of places) {
        const altered = Buffer.from(sealed);
        altered[at] = (altered[at] ?? 0) ^ (1 << (at % 8));
        await refuse(altered, key, `byte ${at}`);
      }
    }).timeout(60_000);

    it('calls a change in the content corrupt', async () => {
      for (const at of [5000, sizes[format] / 2, sealed.length - 40]) {
        const altered = Buffer.from(sealed);
        altered[at] = (altered[at] ?? 0) ^ 0x80;
        assert.equal((await refuse(altered, key, `byte ${at}`)).code, 'corrupt');
      }
    });

    it('refuses a file cut anywhere', async () => {
      const places = [
        ...Array.from({ length: 40 }, (_, index) => Math.floor((sealed.length * index) / 40)),
        ...Array(600).keys(),
      ];
      const chunk = chunkSizes[format] + 16;
      for (let size = chunk; size < sealed.length; size += chunk)
        places.push(size - 1, size, size + 1, size + 15, size + 16, size + 17);
      for (let less = 1; less < 40; less++) places.push(sealed.length - less);
      for (const size of places) await refuse(sealed.subarray(0, size), key, `cut to ${size}`);
    }).timeout(60_000);

    it('calls it truncated, where the format shows that', async () => {
      const error = async (size: number): Promise<string> => (await refuse(sealed.subarray(0, size), key, `cut to ${size}`)).code;
      assert.equal(await error(0), 'truncated');
      assert.equal(await error(10), 'truncated');
      assert.equal(await error(80), 'truncated');
      if (format !== 'age') {
        assert.equal(await error(sealed.length - 1), 'truncated');
        assert.equal(await error(600 * kib), 'truncated');
      } else {
        // age shows it at the border of a chunk only: elsewhere the last part fails as if it were altered.
        const header = sealed.indexOf('\n--- ') + 50 + 16 - 2;
        const offset = sealed.indexOf('\n', sealed.indexOf('\n--- ') + 1) + 1 + 16;
        assert.ok(Math.abs(header - offset) < 10);
        assert.equal(await error(offset + 2 * (64 * kib + 16)), 'truncated');
        assert.equal(await error(offset + 4 * (64 * kib + 16)), 'truncated');
        assert.equal(await error(sealed.length - 1), 'corrupt');
      }
    });

    it('refuses more bytes at the end', async () => {
      for (const more of [Buffer.of(0), Buffer.from('more'), randomBytes(70 * kib), sealed]) {
        const error = await refuse(Buffer.concat([sealed, more]), key, `${more.length} more bytes`);
        if (format !== 'age') assert.equal(error.code, 'trailing-data');
      }
    });

    it('refuses chunks that changed places, or came twice', async () => {
      const chunk = chunkSizes[format];
      const [first, second] = [sealed.subarray(2000, 2000 + chunk), sealed.subarray(2000 + chunk, 2000 + 2 * chunk)];
      const rest = sealed.subarray(2000 + 2 * chunk);
      await refuse(Buffer.concat([sealed.subarray(0, 2000), second, first, rest]), key, 'swapped');
      await refuse(Buffer.concat([sealed.subarray(0, 2000), first, first, rest]), key, 'repeated');
      await refuse(Buffer.concat([sealed.subarray(0, 2000), first, second, second, rest]), key, 'inserted');
    });
  });
}

describe('what is not sealed', () => {
  const cases: readonly [string, string | Buffer][] = [
    ['text', 'Dear reader,\nthis is not encrypted.\n'],
    ['gzip', Buffer.from('1f8b0800000000000003', 'hex')],
    ['an ELF program', Buffer.from('7f454c4602010100', 'hex')],
    ['a newer age', 'age-encryption.org/v2\n-> X25519 abc\n'],
    ['armored age', '-----BEGIN AGE ENCRYPTED FILE-----\n'],
    ['armored OpenPGP', '-----BEGIN PGP MESSAGE-----\n\n'],
    ['an OpenPGP signature', Buffer.from('c20100', 'hex')],
    ['zeros', Buffer.alloc(100)],
  ];
  for (const [name, content] of cases) {
    it(`is refused by name: ${name}`, async () => {
      const { secretKey } = await generateKey('age');
      await assert.rejects(collect(open(inPieces(Buffer.from(content)), secretKey)), failsWith('integrity', 'unknown-format'));
    });
  }

  it('is not confused with a key that is none', async () => {
    const { publicKey } = await generateKey('age');
    const sealed = await collect(seal(inPieces(plain), { format: 'age', recipients: [publicKey] }).bytes);
    const { Secret } = await import('../../../src/secret.ts');
    for (const text of ['', publicKey, 'hello'])
      await assert.rejects(collect(open(inPieces(sealed), new Secret(text))), failsWith('usage', 'key-invalid'));
    await assert.rejects(
      collect(open(inPieces(sealed), new Secret(`AGE-SECRET-KEY-1${'Q'.repeat(58)}`))),
      failsWith('usage', 'key-invalid'),
    );
  });
});

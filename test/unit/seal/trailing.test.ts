import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { HpcsError } from '../../../src/errors.ts';
import { digesting } from '../../../src/seal/digest.ts';
import { generateKey } from '../../../src/seal/keys.ts';
import { open } from '../../../src/seal/open.ts';
import { seal } from '../../../src/seal/seal.ts';
import { collect, inPieces } from '../../support/streams.ts';

// Whoever may read a key can seal with it: a short gzip stream before other bytes must not keep the rest from being digested.
describe('a sealed file with more behind its compressed content', () => {
  for (const format of ['age', 'openpgp'] as const) {
    it(`is refused, or read to its end: ${format}`, async () => {
      const key = await generateKey(format);
      const plain = Buffer.concat([gzipSync('evil'), Buffer.alloc(1), randomBytes(6 * 1024 * 1024)]);
      const sealed = await collect(
        seal(inPieces(plain, [65_536]), { format, recipients: [key.publicKey], compress: 'none' }).bytes,
      );
      const read = digesting(inPieces(sealed, [65_536]));
      try {
        await collect(open(read.bytes, key.secretKey));
      } catch (error) {
        assert.ok(error instanceof HpcsError && error.kind === 'integrity', String(error));
        return;
      }
      assert.equal((await read.summary).size, sealed.length);
    });
  }
});

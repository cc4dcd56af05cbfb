import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { HpcsError } from '../../../src/errors.ts';
import { digesting } from '../../../src/seal/digest.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';

describe('digest', () => {
  const bytes = randomBytes(300_000);
  const expected = { sha512: createHash('sha512').update(bytes).digest('hex'), size: bytes.length };

  it('tells SHA-512 and size of what has passed', async () => {
    for (const sizes of [[1, 1000], [777]]) {
      const tee = digesting(inPieces(bytes, sizes));
      assert.ok((await collect(tee.bytes)).equals(bytes));
      assert.deepEqual(await tee.summary, expected);
    }
    const empty = digesting(inPieces(Buffer.alloc(0)));
    assert.equal((await collect(empty.bytes)).length, 0);
    assert.equal((await empty.summary).sha512.slice(0, 8), 'cf83e135');
  });

  it('has no summary of what failed or was given up', async () => {
    const failure = new HpcsError('local', 'unreadable', 'cannot read');
    const failing = digesting(
      (async function* (): AsyncGenerator<Uint8Array> {
        yield bytes;
        throw failure;
      })(),
    );
    await assert.rejects(collect(failing.bytes), failure);
    await assert.rejects(failing.summary, failure);
    const stopped = digesting(inPieces(bytes, [10]));
    for await (const piece of stopped.bytes) if (piece.length > 0) break;
    await assert.rejects(stopped.summary, failsWith('local', 'stream-unfinished'));
  });
});

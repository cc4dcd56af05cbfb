import assert from 'node:assert/strict';
import { randomBytes, randomInt } from 'node:crypto';
import { ByteReader, copyBytes } from '../../../src/seal/bytes.ts';
import { inPieces } from '../../support/streams.ts';

describe('bytes', () => {
  const kinds = {
    own: (size: number) => Buffer.allocUnsafeSlow(size),
    shared: (size: number) => Buffer.from(new SharedArrayBuffer(size)),
  };
  for (const [from, makeSource] of Object.entries(kinds)) {
    for (const [to, makeTarget] of Object.entries(kinds)) {
      it(`are copied to any place, and nothing beside it is changed: from ${from} memory to ${to}`, () => {
        const content = randomBytes(100_000);
        for (const size of [0, 1, 7, 8, 9, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 70_000]) {
          for (const [start, place] of [
            [0, 0],
            [0, 1],
            [3, 3],
            [3, 11],
            [5, 2],
            [8, 15],
          ] as const) {
            const source = makeSource(start + size);
            source.set(content.subarray(0, size), start);
            const target = makeTarget(place + size + 3).fill(0xaa);
            copyBytes(source.subarray(start), target, place);
            const expected = Buffer.alloc(place + size + 3, 0xaa);
            expected.set(content.subarray(0, size), place);
            assert.ok(target.equals(expected), `${size} bytes from ${start} to ${place}`);
          }
        }
      });
    }
  }

  it('are not copied to where they do not fit', () => {
    for (const make of Object.values(kinds))
      assert.throws(() => copyBytes(Buffer.alloc(10), make(12), 3), { name: 'RangeError' });
  });
});

describe('a reader by count', () => {
  const content = randomBytes(100_000);

  it('gives every byte once and in order, however it is asked', async () => {
    for (let round = 0; round < 200; round++) {
      const sizes = Array.from({ length: 50 }, () => randomInt(1, 3000));
      await using reader = new ByteReader(inPieces(content, sizes));
      let place = 0;
      const isNext = (bytes: Buffer, size: number): void =>
        assert.ok(bytes.equals(content.subarray(place, place + size)), `${size} bytes at ${place}`);
      while (place < content.length) {
        const size = randomInt(0, 6000);
        const way = randomInt(3);
        const bytes = way === 0 ? await reader.peek(size) : way === 1 ? await reader.read(size) : await reader.some(size + 1);
        if (way === 2) assert.ok(bytes !== undefined && bytes.length > 0 && bytes.length <= size + 1);
        isNext(bytes ?? Buffer.alloc(0), way === 2 ? (bytes?.length ?? 0) : size);
        if (way !== 0) place += bytes?.length ?? 0;
        assert.equal(await reader.atEnd(), place === content.length);
      }
      assert.equal(await reader.some(1), undefined);
      assert.equal((await reader.peek(1)).length, 0);
    }
  });

  it('copies of a piece no more than what is asked for over its border', async () => {
    await using reader = new ByteReader(inPieces(content.subarray(0, 50_000), [10, 49_990]));
    assert.ok((await reader.read(12)).equals(content.subarray(0, 12)));
    const rest = await reader.some(Infinity);
    assert.equal(rest?.length, 49_988);
    assert.ok(rest.buffer === content.buffer && rest.byteOffset === content.byteOffset + 12);
  });
});

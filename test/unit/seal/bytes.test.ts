import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { copyBytes } from '../../../src/seal/bytes.ts';

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

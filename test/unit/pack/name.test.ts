import assert from 'node:assert/strict';
import * as fc from 'fast-check';
import { bytesOf, fsPath, nameOf } from '../../../src/pack/name.ts';

describe('file names', () => {
  it('keep their bytes, whatever these are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        assert.deepEqual(bytesOf(nameOf(Buffer.from(bytes))), Buffer.from(bytes));
      }),
      { numRuns: 3000 },
    );
  });

  it('keep their text where they are text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        assert.equal(nameOf(Buffer.from(text)), text);
        assert.equal(fsPath(text), text);
      }),
    );
    for (const text of ['\ufffd', 'a\ufffdb', '\ufeffmark', '😀', '日本語']) assert.equal(nameOf(Buffer.from(text)), text);
  });

  it('are not confused with each other', () => {
    const names = ['ff', 'c3', 'c328', 'eda080', 'edb280', 'efbfbd', 'f09f98', 'f09f9880'].map((hex) =>
      nameOf(Buffer.from(hex, 'hex')),
    );
    assert.equal(new Set(names).size, names.length);
    assert.deepEqual(fsPath(names[0] ?? ''), Buffer.of(0xff));
  });
});

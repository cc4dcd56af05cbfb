import assert from 'node:assert/strict';
import { BlockWriter } from '../../../src/seal/block-writer.ts';

describe('block writer', () => {
  const written = (writer: BlockWriter, count: number): Buffer[] => Array.from(writer.write(Buffer.alloc(count * 4, 'text')));

  it('uses memory of its own again, but never that of others', () => {
    const others: Buffer[] = [];
    let asked = 0;
    const writer = new BlockWriter(4, 1, () => {
      if (asked++ % 2 === 0) return undefined;
      const other = Buffer.alloc(4);
      others.push(other);
      return other;
    });
    const blocks = written(writer, 20);
    assert.equal(blocks.filter((block) => others.includes(block)).length, new Set(others).size);
    const own = blocks.filter((block) => !others.includes(block));
    assert.equal(own.length, 11);
    assert.equal(new Set(own).size, 2);
  });

  it('uses no memory again unless asked', () => {
    assert.equal(new Set(written(new BlockWriter(4), 20)).size, 20);
  });
});

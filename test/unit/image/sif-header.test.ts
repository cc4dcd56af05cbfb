import assert from 'node:assert/strict';
import { configPlace, sifHeader, sifHeaderSize } from '../../../src/image/sif-header.ts';

describe('the header of a SIF', () => {
  const header = sifHeader({
    size: 8,
    configSize: 3,
    architecture: 'amd64',
    created: new Date(1_795_350_567_999),
    id: Buffer.from('938886cb3fe541708748b3fb4adb147c', 'hex'),
  });
  const numbers = (at: number, count: number): number[] =>
    Array.from({ length: count }, (_, index) => Number(header.readBigInt64LE(at + 8 * index)));

  it('is 32 KiB, so that the partition is aligned', () => assert.equal(header.length, sifHeaderSize));

  // What `apptainer sif new` and twice `apptainer sif add` wrote in front of 8 and 3 bytes.
  it('says what Apptainer 1.4.5 writes for the same partition and JSON', () => {
    assert.equal(header.toString('latin1', 32, 48), 'SIF_MAGIC\x0001\x0002\0');
    assert.equal(header.toString('hex', 48, 64), '938886cb3fe541708748b3fb4adb147c');
    assert.deepEqual(numbers(64, 8), [1_795_350_567, 1_795_350_567, 46, 48, 4096, 28_080, 32_176, 603]);
    assert.equal(header.readInt32LE(4096), 16_388);
    assert.equal(header[4100], 1);
    assert.equal(header.readUInt32LE(4101), 1);
    assert.deepEqual(numbers(4113, 7), [32_768, 8, 600, 1_795_350_567, 1_795_350_567, 0, 0]);
    assert.equal(header.toString('hex', 4297, 4308), '0100000002000000303200');
    assert.equal(header.toString('hex', 4681, 4698), '064000000102000000000000f000000000');
    assert.deepEqual(numbers(4698, 7), [32_776, 3, 3, 1_795_350_567, 1_795_350_567, 0, 0]);
    assert.equal(header.toString('latin1', 4754, 4766), 'image.json\0\0');
  });

  it('tells where the configuration lies, and that there is none', () => {
    assert.deepEqual(configPlace(header), { offset: 32_776, size: 3 });
    for (const at of [32, 4681, 4685, 4754, 4764]) {
      const other = Buffer.from(header);
      other[at] = 0x78;
      assert.equal(configPlace(other), undefined, String(at));
    }
    assert.equal(configPlace(header.subarray(0, -1)), undefined);
  });

  it('refuses an architecture that SIF has no code for', () => {
    assert.throws(() => sifHeader({ size: 1, configSize: 1, architecture: 'vax', created: new Date(0) }), RangeError);
  });
});

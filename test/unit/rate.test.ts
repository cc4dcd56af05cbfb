import assert from 'node:assert/strict';
import { parseRate } from '../../src/rate.ts';
import { failsWith } from '../support/streams.ts';

describe('a rate', () => {
  it('is a number of bytes with a decimal unit', () => {
    assert.deepEqual(['1', '500k', '20M', '1.5G'].map(parseRate), [1, 500_000, 20_000_000, 1_500_000_000]);
  });

  it('is nothing else', () => {
    for (const text of ['', '0', '0.5', '-1', '20 M', '20MB', '20m', 'M', 'Infinity', '1e9', '0x10'])
      assert.throws(() => parseRate(text), failsWith('usage', 'rate-invalid'), text);
  });
});

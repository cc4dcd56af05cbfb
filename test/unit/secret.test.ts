import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { Secret } from '../../src/secret.ts';

describe('Secret', () => {
  it('shows its value in no text form', () => {
    const secret = new Secret('s3cr3t');
    for (const form of [String(secret), JSON.stringify({ secret }), inspect({ secret }), ['', secret].join('')]) {
      assert.ok(!form.includes('s3cr3t'), form);
    }
    assert.equal(secret.reveal(), 's3cr3t');
  });

  it('is overwritten when disposed of', () => {
    const secret = new Secret('s3cr3t');
    secret[Symbol.dispose]();
    assert.equal(secret.reveal(), '\0'.repeat(6));
  });
});

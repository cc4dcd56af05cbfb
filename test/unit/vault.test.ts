import assert from 'node:assert/strict';
import { HpcsError } from '../../src/errors.ts';
import { vaultRefused } from '../../src/vault.ts';

describe('refusals of a vault', () => {
  const code = (status: number, ...errors: string[]): string => {
    const error = vaultRefused('https://vault', 'writing x', { status, body: { errors } });
    assert.ok(error instanceof HpcsError);
    return error.code;
  };

  // What OpenBao 2.7 was seen to answer while it is sealed, and once it is.
  it('that it gives while it goes away are told from those that it means', () => {
    assert.equal(code(400, 'unable to get existing policy for check-and-set: context canceled'), 'vault-unavailable');
    assert.equal(code(503, 'Vault is sealed'), 'vault-sealed');
    assert.equal(code(500, 'internal error'), 'vault-unavailable');
    assert.equal(code(400, "failed to parse policy: unknown key 'x'"), 'vault-refused');
    assert.equal(code(403, 'permission denied'), 'vault-forbidden');
  });
});

import assert from 'node:assert/strict';
import { checkRecord } from '../../../src/node/keys.ts';
import type { PlannedArtefact } from '../../../src/job/plan.ts';
import type { VaultRecord } from '../../../src/record.ts';

const planned: PlannedArtefact = {
  path: '/scratch/data.tgz',
  secretPath: 'client_1a2b3c4d5/data',
  role: 'client_1a2b3c4d5-data',
  spiffeId: 'spiffe://example.org/c/1a2b3c4d5/s/data',
  format: 'openpgp',
  sha512: 'a'.repeat(128),
  size: 10,
};
const record: VaultRecord = {
  artefact: '1'.repeat(32),
  kind: 'data',
  format: 'openpgp',
  sha512: 'a'.repeat(128),
  size: 10,
  owner: 'spiffe://example.org/c/1a2b3c4d5/workload',
  created: '2026-01-01T00:00:00Z',
  key: 'secret-key',
};

describe("the vault's record", () => {
  it('agrees with what was submitted', () => checkRecord('data', planned, record));

  it('agrees where the info record told no size', () => {
    const { size: _, ...unsized } = planned;
    checkRecord('data', unsized, record);
  });

  for (const [field, changes] of [
    ['kind', { kind: 'image' }],
    ['kind', { kind: 'job' }],
    ['format', { format: 'age' }],
    ['sha512', { sha512: `b${'a'.repeat(127)}` }],
    ['sha512', { sha512: `${'a'.repeat(127)}b` }],
    ['sha512', { sha512: undefined }],
    ['size', { size: 11 }],
    ['size', { size: undefined }],
  ] as [string, Partial<VaultRecord>][]) {
    it(`that differs in ${field} (${JSON.stringify(changes).slice(0, 30)}) stops the job, and its key is not shown`, () => {
      assert.throws(
        () => checkRecord('data', planned, { ...record, ...changes }),
        (error: Error) => {
          assert.match(
            error.message,
            new RegExp(`^the data is not the one in the vault's record: its ${field} was .* at submission, the vault says `),
          );
          assert.deepEqual([Reflect.get(error, 'code'), Reflect.get(error, 'exitCode')], ['record-mismatch', 7]);
          assert.ok(!error.message.includes('secret-key'));
          return true;
        },
      );
    });
  }

  it('of an image is not one of data', () => {
    assert.throws(() => checkRecord('image', planned, record), {
      code: 'record-mismatch',
      message: /its kind was image at submission, the vault says data$/,
    });
  });
});

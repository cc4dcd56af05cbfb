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
  it('agrees with what was submitted, and gives its key', () => {
    const { key, artefact, image } = checkRecord('data', planned, record);
    assert.deepEqual([key.reveal(), artefact, image], ['secret-key', record.artefact, null]);
  });

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

  it('of an image tells how it is run, or is none', () => {
    const image = { entrypoint: ['/a'], cmd: [], env: [], workdir: '', user: '', digest: 'sha256:0', platform: 'linux/amd64' };
    assert.deepEqual(checkRecord('image', planned, { ...record, kind: 'image', image }).image, image);
    assert.throws(() => checkRecord('image', planned, { ...record, kind: 'image' }), { code: 'vault-record-invalid' });
  });

  describe("that is the original's, a key alone,", () => {
    const original = { key: 'secret-key' };

    it('is taken where the plan allows it', () => {
      const { key, artefact, image } = checkRecord('image', { ...planned, format: 'age', legacy: true }, original);
      assert.deepEqual([key.reveal(), artefact, image], ['secret-key', null, null]);
    });

    it('is refused elsewhere, and so is one with anything beside the key', () => {
      for (const [plan, content] of [
        [planned, original],
        [
          { ...planned, legacy: true },
          { ...original, sha512: record.sha512 },
        ],
        [{ ...planned, legacy: true }, {}],
        [{ ...planned, legacy: true }, { key: 1 }],
        [{ ...planned, legacy: true }, null],
      ] as const) {
        assert.throws(() => checkRecord('data', plan, content), { code: 'vault-record-invalid', exitCode: 7 });
      }
    });

    it('does not stand in for a full one: that is checked, whatever the plan allows', () => {
      const { size: _, ...unsized } = planned;
      checkRecord('data', { ...unsized, legacy: true }, record);
      for (const changes of [{ sha512: 'b'.repeat(128) }, { format: 'age' }, { kind: 'image' }])
        assert.throws(() => checkRecord('data', { ...unsized, legacy: true }, { ...record, ...changes }), {
          code: 'record-mismatch',
        });
    });
  });

  it('of an image is not one of data', () => {
    assert.throws(() => checkRecord('image', planned, record), {
      code: 'record-mismatch',
      message: /its kind was image at submission, the vault says data$/,
    });
  });
});

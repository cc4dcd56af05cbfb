import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { inflateSync } from 'node:zlib';
import * as vectors from 'cctv-age';
import { HpcsError } from '../../../src/errors.ts';
import { Secret } from '../../../src/secret.ts';
import { open } from '../../../src/seal/open.ts';
import { collectUntilError, inPieces } from '../../support/streams.ts';

/** One file of age's test kit: lines of fields, an empty line, the age file. @see https://c2sp.org/CCTV/age */
interface Vector {
  expect: string;
  /** SHA-256 of what is authentic in the file, all of it or its beginning. */
  payload: string | undefined;
  identities: string[];
  passphrase: boolean;
  armored: boolean;
  file: Buffer;
}

function parseVector(bytes: Uint8Array): Vector {
  const content = Buffer.from(bytes);
  const end = content.indexOf('\n\n');
  const fields = content.toString('utf8', 0, end).split('\n').map((line) => line.split(': ', 2)); // prettier-ignore
  const values = (name: string): string[] => fields.filter(([key]) => key === name).map(([, value = '']) => value);
  const body = content.subarray(end + 2);
  return {
    expect: values('expect')[0] ?? '',
    payload: values('payload')[0],
    identities: values('identity'),
    passphrase: values('passphrase').length > 0,
    armored: values('armored').length > 0,
    file: values('compressed')[0] === 'zlib' ? inflateSync(body) : body,
  };
}

/** Codes for each expectation of the kit. */
const codes: Readonly<Record<string, readonly string[]>> = {
  'no match': ['wrong-key'],
  'HMAC failure': ['corrupt'],
  'header failure': ['corrupt', 'truncated', 'unknown-format'],
  'payload failure': ['corrupt', 'truncated', 'trailing-data'],
};

describe("age's test vectors", () => {
  const kit = vectors as unknown as Record<string, Uint8Array>;
  const names = Object.keys(kit);

  it('are all there', () => {
    assert.ok(names.length > 100);
  });

  for (const name of names) {
    const vector = parseVector(kit[name] ?? new Uint8Array());
    const opens = vector.expect === 'success' && !vector.armored && !vector.passphrase;
    it(`${opens ? 'opens' : 'refuses'} ${name}`, async () => {
      const keys = vector.identities.map((identity) => new Secret(identity));
      const stream = open(inPieces(vector.file, [1000]), keys, { decompress: false });
      const { bytes, error } = await collectUntilError(stream);
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      if (opens) {
        assert.equal(error, undefined);
        assert.equal(sha256, vector.payload);
        return;
      }
      assert.ok(error instanceof HpcsError, String(error));
      if (vector.armored) {
        // Armor of any kind is none of ours.
        assert.equal(error.code, 'unknown-format');
      } else if (vector.passphrase && vector.identities.length === 0) {
        // Sealed with a passphrase, which is no key.
        assert.equal(error.code, 'key-invalid');
      } else {
        assert.equal(error.kind, 'integrity');
        assert.ok(codes[vector.expect]?.includes(error.code), `${vector.expect}: ${error.code}, ${error.message}`);
      }
      // What comes out before the failure is whole, authentic chunks: some of what the kit says is authentic.
      if (vector.payload === undefined) assert.equal(bytes.length, 0);
      else if (bytes.length > 0 && bytes.length % 65536 !== 0) assert.equal(sha256, vector.payload);
    });
  }
});

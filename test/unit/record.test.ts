import assert from 'node:assert/strict';
import { HpcsError } from '../../src/errors.ts';
import { parseInfoRecord, renderInfoRecord, secretName, vaultRecordSchema, type InfoRecord } from '../../src/record.ts';

/** What the original writes. */
const original = `info:
  path_at_rest: /scratch/project_462000031/etellier/encrypted_jp2a_input.tgz
  secret_path: client_1a2b3c4d5/encrypted_jp2a_input.tgz
  access_role: client_1a2b3c4d5-encrypted_jp2a_input.tgz
  checksum: ${'0123456789abcdef'.repeat(8)}
  spiffeID: spiffe://lumi.csc.fi/c/1a2b3c4d5/s/encrypted_jp2a_input.tgz
`;

const ours: InfoRecord = {
  path_at_rest: '/scratch/søk \'"#: -/data.tgz',
  secret_path: 'client_1a2b3c4d5/data-tgz-00000000000000000000000000000000',
  access_role: 'client_1a2b3c4d5-data-tgz-00000000000000000000000000000000',
  checksum: 'a'.repeat(128),
  spiffeID: 'spiffe://example.org/c/1a2b3c4d5/s/data-tgz-00000000000000000000000000000000',
  format: 'openpgp',
  kind: 'data',
  artefact: '1'.repeat(32),
  size: 2 ** 40,
  nodes: ['nid003044', '1'],
};

describe('info record', () => {
  it("of the original's is read, and means age", () => {
    assert.deepEqual(parseInfoRecord(original, 'x'), {
      path_at_rest: '/scratch/project_462000031/etellier/encrypted_jp2a_input.tgz',
      secret_path: 'client_1a2b3c4d5/encrypted_jp2a_input.tgz',
      access_role: 'client_1a2b3c4d5-encrypted_jp2a_input.tgz',
      checksum: '0123456789abcdef'.repeat(8),
      spiffeID: 'spiffe://lumi.csc.fi/c/1a2b3c4d5/s/encrypted_jp2a_input.tgz',
      format: 'age',
    });
  });

  it('of ours is written and read back, whatever its values look like to YAML', () => {
    assert.deepEqual(parseInfoRecord(renderInfoRecord(ours), 'x'), ours);
    const numeric = { ...ours, checksum: '1'.repeat(128), artefact: `${'1'.repeat(15)}e${'1'.repeat(16)}` };
    assert.deepEqual(parseInfoRecord(renderInfoRecord(numeric), 'x'), numeric);
  });

  it('may hold more than we know', () => {
    assert.equal(parseInfoRecord(`${original}  more: yes\nother: 1\n`, 'x').format, 'age');
  });

  describe('is refused, and the error names record, field and what was expected:', () => {
    for (const [content, what] of [
      ['', 'it: expected an info record'],
      ['just text', 'it: expected an info record'],
      ['info: 1', 'info: expected an info record'],
      ['info: [', 'it is not YAML'],
      ['info: !!js/function x', 'info: expected an info record'],
      ['info: &a [*a, *a]', 'info: expected an info record'],
      [original.replace(/ {2}checksum.*\n/, ''), 'info.checksum: expected a SHA-512 digest in hex'],
      [original.replace('0123', 'XXXX'), 'info.checksum: expected a SHA-512 digest in hex'],
      [original.replace('path_at_rest: /', 'path_at_rest: '), 'info.path_at_rest: expected an absolute path'],
      [original.replace(/path_at_rest: .*/, 'path_at_rest: "/a\\nb"'), 'info.path_at_rest: expected an absolute path'],
      [original.replace(/path_at_rest: .*/, 'path_at_rest: "/a\\e[2J"'), 'info.path_at_rest: expected an absolute path'],
      [original.replace(/path_at_rest: .*/, 'path_at_rest: "/a\\0"'), 'info.path_at_rest: expected an absolute path'],
      [
        original.replace('secret_path: client_1a2b3c4d5/', 'secret_path: client_1a2b3c4d5/../client_000000000/'),
        'info.secret_path: expected client_<id>/<secret>',
      ],
      [
        original.replace('secret_path: client_1a2b3c4d5', 'secret_path: client_*'),
        'info.secret_path: expected client_<id>/<secret>',
      ],
      [original.replace('access_role: client', 'access_role: root'), 'info.access_role: expected client_<id>-<secret>'],
      [original.replace('spiffe://', 'https://'), 'info.spiffeID: expected a SPIFFE ID'],
      [
        original.replace('secret_path: client_1', 'secret_path: client_2'),
        'info: expected a secret_path, access_role and spiffeID of one secret',
      ],
      [
        original.replace('access_role: client_1a2b3c4d5-e', 'access_role: client_1a2b3c4d5-f'),
        'info: expected a secret_path, access_role and spiffeID of one secret',
      ],
      [original.replace('/c/1a2b', '/c/2a2b'), 'info: expected a secret_path, access_role and spiffeID of one secret'],
      [original.replace('/s/encrypted', '/s/other'), 'info: expected a secret_path, access_role and spiffeID of one secret'],
      [`${original}  format: rot13\n`, 'info.format: expected openpgp or age or openpgp-gpg'],
      [`${original}  kind: job\n`, 'info.kind: expected image or data'],
      [`${original}  size: -1\n`, 'info.size: expected a number of bytes'],
      [`${original}  size: 1e400\n`, 'info.size: expected a number of bytes'],
      [`${original}  artefact: ../../x\n`, 'info.artefact: expected an artefact id'],
      [`${original}  nodes: nid1\n`, 'info.nodes: expected a list of names'],
      [`${original}  nodes: ["a b"]\n`, 'info.nodes.0: expected a name of letters, digits, dots, dashes'],
    ] as const) {
      it(what + ` (${JSON.stringify(content.slice(0, 20))})`, () => {
        assert.throws(
          () => parseInfoRecord(content, '/scratch/x.info.yaml'),
          (error: unknown) => {
            assert.ok(error instanceof HpcsError, String(error));
            assert.equal(error.message, `the info record /scratch/x.info.yaml is not valid: ${what}`);
            assert.deepEqual([error.code, error.exitCode], ['info-record-invalid', 7]);
            return true;
          },
        );
      });
    }

    it('one that grows when its aliases are followed', () => {
      let bomb = 'a0: &a0 [x, x, x, x, x, x, x, x, x]\n';
      for (let i = 1; i < 9; i++)
        bomb += `a${i}: &a${i} [${Array(9)
          .fill(`*a${i - 1}`)
          .join(', ')}]\n`;
      assert.throws(() => parseInfoRecord(`${bomb}info: *a8\n`, 'x'), { code: 'info-record-invalid' });
    });

    it('one that would change the prototype of anything', () => {
      assert.throws(() => parseInfoRecord('__proto__:\n  info: 1\nconstructor:\n  prototype:\n    info: 1\n', 'x'), {
        code: 'info-record-invalid',
      });
      assert.equal(Reflect.get({}, 'info'), undefined);
    });
  });
});

describe('vault record', () => {
  const record = {
    artefact: '1'.repeat(32),
    kind: 'data',
    format: 'openpgp',
    sha512: 'a'.repeat(128),
    size: 1,
    owner: 'spiffe://x/y',
    created: 'now',
    key: 'k',
  };

  it('has a fixed form', () => {
    assert.ok(vaultRecordSchema.safeParse(record).success);
    for (const changes of [
      { artefact: 'x' },
      { kind: 'other' },
      { format: 'none' },
      { sha512: 'a' },
      { size: -1 },
      { size: 0.5 },
      { key: undefined },
      { image: {} },
    ]) {
      assert.ok(!vaultRecordSchema.safeParse({ ...record, ...changes }).success, JSON.stringify(changes));
    }
  });
});

describe('secret name', () => {
  it('is a readable part and 128 random bits, in characters that everything treats alike', () => {
    for (const [file, slug] of [
      ['encrypted_jp2a_input.tgz', 'encrypted-jp2a-input-tgz'],
      ['X.TGZ', 'x-tgz'],
      ['*', 'artefact'],
      ['', 'artefact'],
      ['../../etc/passwd', 'etc-passwd'],
      ['søk data.tgz', 's-k-data-tgz'],
      ['-', 'artefact'],
      [`${'a'.repeat(59)}.${'b'.repeat(99)}`, 'a'.repeat(59)],
    ] as const) {
      assert.match(secretName(file), new RegExp(`^${slug}-[0-9a-f]{32}$`), file);
    }
  });

  it('is never the same', () => {
    assert.equal(new Set(Array.from({ length: 100 }, () => secretName('x'))).size, 100);
  });
});

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateHybridIdentity, generateX25519Identity, identityToRecipient } from 'age-encryption';
import * as openpgp from 'openpgp';
import { Secret } from '../../../src/secret.ts';
import { generateKey } from '../../../src/seal/keys.ts';
import { open } from '../../../src/seal/open.ts';
import { describeRecipient, readRecipients } from '../../../src/seal/recipients.ts';
import { seal } from '../../../src/seal/seal.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';

const day = 24 * 60 * 60;
const plain = randomBytes(300_000);

describe('recipients', () => {
  let directory: string;
  const owner = { userIDs: [{ name: 'Olga Owner', email: 'olga@example.org' }] };

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'recipients-'));
  });
  after(async () => {
    await rm(directory, { recursive: true });
  });

  async function file(name: string, content: string | Uint8Array): Promise<string> {
    await writeFile(join(directory, name), content);
    return join(directory, name);
  }

  const kinds: Record<string, openpgp.KeyOptions> = {
    'version 4': { ...owner, type: 'ecc', curve: 'curve25519Legacy' },
    'version 4, new curves': { ...owner, type: 'curve25519' },
    'version 4, RSA': { ...owner, type: 'rsa', rsaBits: 2048 },
    'version 6': { ...owner, config: { v6Keys: true, aeadProtect: true } },
    'version 6, nameless': { ...owner, userIDs: [], config: { v6Keys: true } },
  };
  for (const [kind, options] of Object.entries(kinds)) {
    it(`open what is sealed to their certificate, armored or binary: ${kind}`, async () => {
      const { publicKey, privateKey } = await openpgp.generateKey({ ...options, format: 'armored' });
      const certificate = await openpgp.readKey({ armoredKey: publicKey });
      const own = await generateKey('openpgp');
      for (const content of [publicKey, certificate.write()]) {
        const [recipient, ...more] = await readRecipients([await file('owner', content)], 'openpgp');
        assert.ok(recipient);
        assert.deepEqual(more, []);
        assert.equal(recipient.fingerprint, certificate.getFingerprint().toUpperCase());
        assert.equal(recipient.owner, kind.endsWith('nameless') ? '' : 'Olga Owner <olga@example.org>');
        assert.equal(recipient.opensAead, kind === 'version 6');
        const recipients = [own.publicKey, recipient.publicKey];
        const sealed = await collect(seal(inPieces(plain), { format: 'openpgp', recipients }).bytes);
        for (const key of [own.secretKey, new Secret(privateKey)])
          assert.ok((await collect(open(inPieces(sealed), key))).equals(plain));
      }
    });
  }

  it('open what is sealed to their age recipient', async () => {
    for (const identity of [await generateX25519Identity(), await generateHybridIdentity()]) {
      const name = await identityToRecipient(identity);
      const [recipient] = await readRecipients([name, name], 'age');
      assert.equal(recipient?.fingerprint, name);
      assert.equal(describeRecipient(recipient), name);
      const other = await generateX25519Identity();
      const more = await readRecipients([await identityToRecipient(other), name], 'age');
      assert.equal(more.length, 2);
      const recipients = [(await generateKey('age')).publicKey, recipient.publicKey];
      const sealed = await collect(seal(inPieces(plain), { format: 'age', recipients }).bytes);
      assert.ok((await collect(open(inPieces(sealed), new Secret(identity)))).equals(plain));
    }
  });

  it('are all those of a file, each once', async () => {
    const keys = [await openpgp.generateKey(owner), await openpgp.generateKey(owner)];
    const certificates = await Promise.all(keys.map(({ publicKey }) => openpgp.readKey({ armoredKey: publicKey })));
    const ring = await file('ring', Buffer.concat(certificates.map((key) => key.write())));
    const found = await readRecipients([ring, await file('one', keys[0]?.publicKey ?? '')], 'openpgp');
    assert.deepEqual(found.map(({ fingerprint }) => fingerprint), certificates.map((key) => key.getFingerprint().toUpperCase())); // prettier-ignore
  });

  it('are sealed to by the one key that was found valid, and nothing else of the certificate is kept', async () => {
    const { privateKey } = await openpgp.generateKey({
      ...owner,
      userIDs: [{ name: 'first' }, { name: 'second' }],
      subkeys: [{}, { sign: true }, {}],
      format: 'object',
    });
    const [recipient] = await readRecipients([await file('large', privateKey.toPublic().armor())], 'openpgp');
    const kept = await openpgp.readKey({ armoredKey: recipient?.publicKey ?? '' });
    assert.equal(kept.getSubkeys().length, 1);
    assert.equal(kept.users.length, 1);
  });

  it('open what is sealed after their certificate has expired: it was valid when it was given', async () => {
    const date = new Date(Date.now() - 2 * day * 1000);
    const { publicKey, privateKey } = await openpgp.generateKey({ ...owner, date, keyExpirationTime: day });
    const sealed = await collect(seal(inPieces(plain), { format: 'openpgp', recipients: [publicKey] }).bytes);
    assert.ok((await collect(open(inPieces(sealed), new Secret(privateKey)))).equals(plain));
  });

  describe('are refused', () => {
    const cases: Record<string, [make: () => Promise<string>, code: string]> = {
      'with an expired certificate': [
        async () => {
          const date = new Date(Date.now() - 2 * day * 1000);
          return (await openpgp.generateKey({ ...owner, date, keyExpirationTime: day })).publicKey;
        },
        'recipient-expired',
      ],
      'with an expired encryption key': [
        async () => {
          const date = new Date(Date.now() - 2 * day * 1000);
          return (await openpgp.generateKey({ ...owner, date, subkeys: [{ keyExpirationTime: day }] })).publicKey;
        },
        'recipient-expired',
      ],
      'with a certificate that is not valid yet': [
        async () => (await openpgp.generateKey({ ...owner, date: new Date(Date.now() + day * 1000) })).publicKey,
        'recipient-expired',
      ],
      'with a revoked certificate': [
        async () => {
          const { privateKey } = await openpgp.generateKey({ ...owner, format: 'object' });
          return (await openpgp.revokeKey({ key: privateKey, format: 'object' })).publicKey.armor();
        },
        'recipient-revoked',
      ],
      'with a revoked encryption key': [
        async () => {
          const { privateKey } = await openpgp.generateKey({ ...owner, format: 'object' });
          const [subkey] = privateKey.subkeys;
          if (subkey === undefined) throw new Error('no subkey');
          privateKey.subkeys = [await subkey.revoke(privateKey.keyPacket as openpgp.SecretKeyPacket)];
          return privateKey.toPublic().armor();
        },
        'recipient-without-encryption',
      ],
      'with a certificate that only signs': [
        async () => (await openpgp.generateKey({ ...owner, subkeys: [{ sign: true }] })).publicKey,
        'recipient-without-encryption',
      ],
      'with a secret key': [async () => (await openpgp.generateKey(owner)).privateKey, 'recipient-secret'],
      'with something else': [async () => 'hello', 'recipient-invalid'],
      'with an empty file': [async () => '', 'recipient-invalid'],
      'with a damaged certificate': [
        async () => (await openpgp.generateKey(owner)).publicKey.replace(/[A-Za-z0-9]{20}/, 'AAAAAAAAAAAAAAAAAAAA'),
        'recipient-invalid',
      ],
    };
    for (const [what, [make, code]] of Object.entries(cases)) {
      it(what, async () => {
        await assert.rejects(readRecipients([await file('bad', await make())], 'openpgp'), failsWith('usage', code));
      });
    }

    it('of the other format', async () => {
      const certificate = await file('certificate', (await openpgp.generateKey(owner)).publicKey);
      const age = await identityToRecipient(await generateX25519Identity());
      await assert.rejects(readRecipients([certificate], 'age'), failsWith('usage', 'recipient-format'));
      await assert.rejects(readRecipients([age], 'openpgp'), failsWith('usage', 'recipient-format'));
    });

    it('with a letter wrong, or a file that is not there', async () => {
      const age = await identityToRecipient(await generateX25519Identity());
      const wrong = `${age.slice(0, -1)}${age.endsWith('q') ? 'p' : 'q'}`;
      await assert.rejects(readRecipients([wrong], 'age'), failsWith('usage', 'recipient-invalid'));
      await assert.rejects(readRecipients([join(directory, 'none')], 'openpgp'), failsWith('local', 'recipient-unreadable'));
    });

    it('where it is a secret key, which no message shows', async () => {
      const identity = await generateX25519Identity();
      await assert.rejects(readRecipients([identity], 'age'), (error) => {
        failsWith('usage', 'recipient-secret')(error);
        assert.ok(!JSON.stringify(error).includes(identity.slice(20)));
        return true;
      });
    });
  });
});

import assert from 'node:assert/strict';
import { createSecretKey, randomBytes } from 'node:crypto';
import * as openpgp from 'openpgp';
import { Secret } from '../../../src/secret.ts';
import { generateKey, type ArtefactKey } from '../../../src/seal/keys.ts';
import { open, openTwice } from '../../../src/seal/open.ts';
import { openEncrypted } from '../../../src/seal/openpgp.ts';
import { seal } from '../../../src/seal/seal.ts';
import { newMessageKey, sealSeipd } from '../../../src/seal/seipd.ts';
import { sealSeipd1 } from '../../../src/seal/seipd1.ts';
import { sampleKey, sampleMessage } from '../../support/openpgp-samples.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';

// RFC 9580, A.10 (OCB) and A.11 (GCM): session keys, and bodies of the encrypted packets.
const samples = {
  OCB: {
    sessionKey: '28e79ab82397d3c63de24ac217d7b791',
    body:
      '0207020620a661f731fc9a3032b5623326027e3a5d8db5748ebeff0b0c5910d09ecdd641ff9fd38562758035bc49754ce1bf3fff' +
      'a7dad0a3b8104f5133cf42a4100a83eef4ca1b4801a8846bf42bcda7c8ce9d65e212f301cbcd98fdcade694a877ad4247323f6e857',
  },
  GCM: {
    sessionKey: '1936fc8568980274bb900d8319360c77',
    body:
      '02070306fcb94490bcb98bbdc9d106c6090266940f72e89edc21b5596b1576b101ed0f9ffc6fc6d65bbfd24dcd0790966e6d1e85' +
      'a30053784cb1d8b6a0699ef12155a7b2ad6258531b57651fd7777912fa95e35d9b40216f69a4c248db28ff4331f1632907399e6ff9',
  },
};

// RFC 9580, A.9: in EAX mode.
const eaxSample = {
  sessionKey: '3881bafe985412459b86c36f98cb9a5e',
  body:
    '020701069ff90e3b321964f3a42913c8dcc6619325015227efb7eaeaa49f04c2e674175d4a3d226ed6afcb9ca9ac122c1470e11c63d4c0ab' +
    '241c6a938ad48bf99a5a99b90bba8325de61047540258ab7959a95ad051dda96eb15431dfef5f5e2255ca78261546e339a',
};

describe("RFC 9580's samples", () => {
  it('refuses the EAX sample by name, which openpgp.js opens', async () => {
    const [key, body] = [eaxSample.sessionKey, eaxSample.body].map((hex) => Buffer.from(hex, 'hex'));
    assert.ok(key && body);
    const message = await openpgp.readMessage({ binaryMessage: Buffer.concat([Buffer.of(0xd2, body.length), body]) });
    const { data } = await openpgp.decrypt({ message, sessionKeys: { data: key, algorithm: 'aes128' } });
    assert.equal(data, 'Hello, world!');
    await assert.rejects(collect(openEncrypted(inPieces(body), () => Promise.resolve(key))), (error) => {
      failsWith('integrity', 'unknown-format')(error);
      assert.match(String(error), /EAX/);
      return true;
    });
  });

  it('opens A.8, X25519 and OCB', async () => {
    const plain = await collect(open(inPieces(sampleMessage), new Secret(sampleKey)));
    assert.equal(plain.toString(), 'Hello, world!');
  });

  it('refuses A.8 with any byte changed', async () => {
    for (let at = 0; at < sampleMessage.length; at++) {
      const altered = Buffer.from(sampleMessage);
      altered[at] = (altered[at] ?? 0) ^ 0x02;
      await assert.rejects(
        collect(open(inPieces(altered), new Secret(sampleKey))),
        failsWith('integrity', 'corrupt', 'truncated', 'trailing-data', 'wrong-key', 'unknown-format'),
        `byte ${at}`,
      );
    }
  });

  for (const [name, { sessionKey, body }] of Object.entries(samples)) {
    const packet = Buffer.from(body, 'hex');
    const key = Buffer.from(sessionKey, 'hex');

    it(`opens the encrypted packet of the ${name} sample`, async () => {
      const plain = await collect(openEncrypted(inPieces(packet), () => Promise.resolve(key)));
      assert.equal(plain.toString(), 'Hello, world!');
    });

    it(`refuses the ${name} sample with another session key`, async () => {
      const wrong = Buffer.from(key);
      wrong[3] = 0;
      await assert.rejects(
        collect(openEncrypted(inPieces(packet), () => Promise.resolve(wrong))),
        failsWith('integrity', 'corrupt'),
      );
      await assert.rejects(
        collect(openEncrypted(inPieces(packet), () => Promise.resolve(randomBytes(32)))),
        failsWith('integrity', 'corrupt'),
      );
    });
  }
});

describe('openpgp.js', () => {
  const plain = randomBytes(600_000);
  let key: ArtefactKey;
  let publicKey: openpgp.Key;
  let privateKey: openpgp.PrivateKey;

  before(async () => {
    key = await generateKey('openpgp');
    publicKey = await openpgp.readKey({ armoredKey: key.publicKey });
    privateKey = await openpgp.readPrivateKey({ armoredKey: key.secretKey.reveal() });
  });

  it('reads our keys: version 6, curve25519, unprotected', () => {
    assert.equal(privateKey.keyPacket.version, 6);
    assert.equal(privateKey.isDecrypted(), true);
    assert.equal(publicKey.isPrivate(), false);
    assert.equal(publicKey.getAlgorithmInfo().algorithm, 'ed25519');
    assert.deepEqual(publicKey.getSubkeys().map((part) => part.getAlgorithmInfo().algorithm), ['x25519']); // prettier-ignore
    assert.equal(privateKey.getFingerprint(), publicKey.getFingerprint());
  });

  for (const size of [0, 1, 262_143, 262_144, 600_000]) {
    it(`opens what we sealed, ${size} bytes`, async () => {
      const part = plain.subarray(0, size);
      const sealed = await collect(
        seal(inPieces(part), { format: 'openpgp', recipients: [key.publicKey], compress: 'none' }).bytes,
      );
      const message = await openpgp.readMessage({ binaryMessage: sealed });
      const { data } = await openpgp.decrypt({ message, decryptionKeys: privateKey, format: 'binary' });
      assert.ok(Buffer.from(data as Uint8Array).equals(part));
    }).timeout(60_000);
  }

  for (const [name, preferredAEADAlgorithm] of [
    ['OCB', openpgp.enums.aead.ocb],
    ['GCM', openpgp.enums.aead.gcm],
  ] as const) {
    for (const aeadChunkSizeByte of [0, 6, 12]) {
      it(`seals what we open, ${name}, chunks of ${2 ** (aeadChunkSizeByte + 6)} bytes`, async () => {
        const part = plain.subarray(0, 20_000);
        // Its own choice among what the key prefers: only the first is asked for.
        const sealed = await openpgp.encrypt({
          message: await openpgp.createMessage({ binary: part }),
          encryptionKeys: publicKey,
          sessionKey: {
            data: randomBytes(32),
            algorithm: 'aes256',
            aeadAlgorithm: name === 'OCB' ? 'ocb' : 'gcm',
          },
          format: 'binary',
          config: { preferredAEADAlgorithm, aeadChunkSizeByte, aeadProtect: true },
        });
        assert.ok((await collect(open(inPieces(sealed as Uint8Array, [777]), key.secretKey))).equals(part));
      });
    }
  }

  for (const compression of ['uncompressed', 'zip', 'zlib'] as const) {
    it(`seals with the older packet what we open when it may be checked at its end: ${compression}`, async () => {
      const old = await openpgp.generateKey({ userIDs: [{ name: 'old' }], format: 'armored' });
      const sealed = await openpgp.encrypt({
        message: await openpgp.createMessage({ binary: plain }),
        encryptionKeys: await openpgp.readKey({ armoredKey: old.publicKey }),
        format: 'binary',
        config: { preferredCompressionAlgorithm: openpgp.enums.compression[compression] },
      });
      const secret = new Secret(old.privateKey);
      const read = (): AsyncGenerator<Uint8Array> => inPieces(sealed as Uint8Array);
      await assert.rejects(collect(open(read(), secret)), failsWith('integrity', 'checked-at-end'));
      assert.ok((await collect(open(read(), secret, { checkedAtEnd: true }))).equals(plain));
      assert.ok((await collect(openTwice(read, secret))).equals(plain));
    });
  }

  it('opens what we sealed in the older packet, and reads its key: version 4, curve25519', async () => {
    const old = await generateKey('openpgp-gpg');
    const secret = await openpgp.readPrivateKey({ armoredKey: old.secretKey.reveal() });
    assert.equal(secret.keyPacket.version, 4);
    assert.deepEqual(secret.getSubkeys().map((part) => part.getAlgorithmInfo()), [{ algorithm: 'ecdh', curve: 'curve25519Legacy' }]); // prettier-ignore
    for (const size of [0, 1, 262_144, 600_000]) {
      const part = plain.subarray(0, size);
      const recipients = [old.publicKey];
      const sealed = await collect(seal(inPieces(part), { format: 'openpgp-gpg', recipients, compress: 'none' }).bytes);
      const message = await openpgp.readMessage({ binaryMessage: sealed });
      const { data } = await openpgp.decrypt({ message, decryptionKeys: secret, format: 'binary' });
      assert.ok(Buffer.from(data as Uint8Array).equals(part));
    }
  });

  it('makes of one kind of message no other', async () => {
    const sessionKey = randomBytes(32);
    const old = await openpgp.readPrivateKey({ armoredKey: (await generateKey('openpgp-gpg')).secretKey.reveal() });
    // A session key for version 1 before data of version 2, and the other way.
    const packets = async (aeadAlgorithm?: 'ocb'): Promise<Uint8Array> =>
      openpgp.encryptSessionKey({
        data: sessionKey,
        algorithm: 'aes256',
        ...(aeadAlgorithm === undefined ? {} : { aeadAlgorithm }),
        encryptionKeys: old.toPublic(),
        format: 'binary',
      });
    for (const [keyPackets, body] of [
      [await packets(), sealSeipd(inPieces(plain), newMessageKey(sessionKey))],
      [await packets('ocb'), sealSeipd1(inPieces(plain), createSecretKey(sessionKey))],
    ] as const) {
      const sealed = Buffer.concat([keyPackets, await collect(body)]);
      const opened = open(inPieces(sealed), new Secret(old.armor()), { checkedAtEnd: true });
      await assert.rejects(collect(opened), failsWith('integrity', 'wrong-key'));
    }
  });

  it('makes version 4 keys for owners, to which we seal as well', async () => {
    const owner = await openpgp.generateKey({ userIDs: [{ name: 'owner' }], format: 'armored' });
    const sealed = await collect(
      seal(inPieces(plain), { format: 'openpgp', recipients: [key.publicKey, owner.publicKey], compress: 'none' }).bytes,
    );
    for (const secret of [key.secretKey, new Secret(owner.privateKey)])
      assert.ok((await collect(open(inPieces(sealed), secret))).equals(plain));
  });
});

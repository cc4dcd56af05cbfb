import assert from 'node:assert/strict';
import { armor, Encrypter, generateX25519Identity } from 'age-encryption';
import * as openpgp from 'openpgp';
import { Secret } from '../../../src/secret.ts';
import { unlock } from '../../../src/seal/unlock.ts';
import { failsWith } from '../../support/streams.ts';

describe('unlocking a key', () => {
  const words = 'correct horse ☃';
  const asked = (): { ask: () => Promise<Secret>; times: () => number } => {
    let times = 0;
    return { ask: async () => (times++, new Secret(words)), times: () => times };
  };
  const never = (): never => assert.fail('asked for a passphrase');

  it('asks nothing for one that is not protected, armored or binary', async () => {
    const { privateKey } = await openpgp.generateKey({ userIDs: [{ name: 'o' }], format: 'object' });
    const identity = await generateX25519Identity();
    for (const content of [privateKey.armor(), privateKey.write(), identity]) {
      const key = await unlock(new Secret(content), never);
      assert.equal(key.reveal(), content === identity ? identity : privateKey.armor());
    }
  });

  const kinds: Record<string, openpgp.PartialConfig> = {
    'version 4': {},
    'version 6': { v6Keys: true, aeadProtect: true },
    'version 6, Argon2': { v6Keys: true, aeadProtect: true, s2kType: openpgp.enums.s2k.argon2 },
  };
  for (const [kind, config] of Object.entries(kinds)) {
    it(`opens a protected OpenPGP key: ${kind}`, async () => {
      const userIDs = [{ name: 'owner' }];
      const locked = (await openpgp.generateKey({ userIDs, passphrase: words, format: 'object', config })).privateKey;
      for (const content of [locked.armor(), locked.write()]) {
        const { ask, times } = asked();
        const key = await openpgp.readPrivateKey({ armoredKey: (await unlock(new Secret(content), ask)).reveal() });
        assert.ok(key.isDecrypted());
        assert.equal(key.getFingerprint(), locked.getFingerprint());
        assert.equal(times(), 1);
      }
      const wrong = async (): Promise<Secret> => new Secret('wrong');
      await assert.rejects(unlock(new Secret(locked.armor()), wrong), failsWith('usage', 'passphrase-wrong'));
    }).timeout(60_000);
  }

  it('opens a protected age identity file, armored or not', async () => {
    const identity = `# created: today\n${await generateX25519Identity()}\n`;
    const encrypter = new Encrypter();
    encrypter.setPassphrase(words);
    encrypter.setScryptWorkFactor(12);
    const file = await encrypter.encrypt(identity);
    for (const content of [file, armor.encode(file)])
      assert.equal((await unlock(new Secret(content), asked().ask)).reveal(), identity);
    await assert.rejects(
      unlock(new Secret(file), async () => new Secret('no')),
      failsWith('usage', 'passphrase-wrong'),
    );
  });

  it('refuses what only looks like a key', async () => {
    for (const content of [
      '-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nxxxx\n-----END PGP PRIVATE KEY BLOCK-----\n',
      '-----BEGIN AGE ENCRYPTED FILE-----\nxxxx\n',
      Buffer.from([0xc5, 1, 2, 3]),
    ])
      await assert.rejects(unlock(new Secret(content), never), failsWith('usage', 'key-invalid'));
  });
});

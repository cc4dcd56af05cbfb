import { armor as ageArmor, Decrypter } from 'age-encryption';
import { decryptKey, readPrivateKey, type PrivateKey } from 'openpgp';
import { HpcsError } from '../errors.ts';
import { Secret } from '../secret.ts';
import { notSecretKey } from './faults.ts';
import { ageMagic } from './stream.ts';

/**
 * A secret key in the form that {@link open} takes: binary OpenPGP keys become armored ones, and what is protected by a passphrase is
 * unlocked, an OpenPGP key as well as an age identity file.
 *
 * @param key what stood in a key file; gone afterwards
 * @param passphrase asked once, and only where it is needed
 * @throws HpcsError `usage`: `key-invalid`, or `passphrase-wrong`
 */
export async function unlock(key: Secret, passphrase: () => Promise<Secret>): Promise<Secret> {
  const bytes = key.bytes();
  const isBinary = ((bytes[0] ?? 0) & 0x80) !== 0;
  // Only the first is looked at where a file holds several.
  const text = isBinary ? '' : key.reveal();
  if (isBinary || text.includes('-----BEGIN PGP PRIVATE KEY BLOCK-----')) {
    using _key = key;
    return await unlockOpenpgp(isBinary ? { binaryKey: Uint8Array.from(bytes) } : { armoredKey: text }, passphrase);
  }
  if (text.startsWith(ageMagic) || text.includes('-----BEGIN AGE ENCRYPTED FILE-----')) {
    using _key = key;
    return await unlockAge(text.startsWith(ageMagic) ? Uint8Array.from(bytes) : armored(text), passphrase);
  }
  return key;
}

async function unlockOpenpgp(
  content: { armoredKey: string } | { binaryKey: Uint8Array },
  passphrase: () => Promise<Secret>,
): Promise<Secret> {
  let privateKey: PrivateKey;
  try {
    privateKey = await readPrivateKey(content as { armoredKey: string });
  } catch (error) {
    throw notSecretKey(error);
  }
  if (privateKey.isDecrypted()) return new Secret(privateKey.armor());
  using words = await passphrase();
  try {
    return new Secret((await decryptKey({ privateKey, passphrase: words.reveal() })).armor());
  } catch (error) {
    throw wrongPassphrase(error);
  }
}

async function unlockAge(file: Uint8Array, passphrase: () => Promise<Secret>): Promise<Secret> {
  using words = await passphrase();
  const decrypter = new Decrypter();
  decrypter.addPassphrase(words.reveal());
  try {
    return new Secret(await decrypter.decrypt(file));
  } catch (error) {
    throw wrongPassphrase(error);
  }
}

function armored(text: string): Uint8Array {
  try {
    return ageArmor.decode(text);
  } catch (error) {
    throw new HpcsError('usage', 'key-invalid', 'the key is not a valid age identity file', {
      cause: error,
      suggestion: 'give all of the file, to the line -----END AGE ENCRYPTED FILE-----',
    });
  }
}

function wrongPassphrase(cause: unknown): HpcsError {
  return new HpcsError('usage', 'passphrase-wrong', 'the key does not open with this passphrase', {
    cause,
    suggestion: 'try again; the passphrase is that of the key, not of the vault',
  });
}

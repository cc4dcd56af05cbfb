import type { SealFormat } from './format.ts';
import { Secret } from '../secret.ts';

/** The key pair of one artefact or job. */
export interface ArtefactKey {
  format: SealFormat;
  /** Opens what was sealed: `AGE-SECRET-KEY-1…`, or an armored, unprotected OpenPGP secret key. */
  secretKey: Secret;
  /** Seals: `age1…`, or an armored OpenPGP certificate. */
  publicKey: string;
}

/**
 * Makes a fresh key pair, in memory only.
 *
 * @param format `openpgp`: a version 6 curve25519 key (RFC 9580); `openpgp-gpg`: a version 4 one, as GnuPG reads it; `age`: X25519
 *   (age-encryption.org/v1)
 */
export async function generateKey(format: SealFormat): Promise<ArtefactKey> {
  // The packages behind the formats take some 25 MiB each: only the one that is needed is loaded.
  if (format === 'age') {
    const { generateX25519Identity, identityToRecipient } = await import('age-encryption');
    const identity = await generateX25519Identity();
    return { format, secretKey: new Secret(identity), publicKey: await identityToRecipient(identity) };
  }
  const { generateKey: generateOpenpgpKey } = await import('openpgp');
  if (format === 'openpgp-gpg') {
    const { privateKey, publicKey } = await generateOpenpgpKey({
      type: 'ecc',
      curve: 'curve25519Legacy',
      // GnuPG takes no key without a name.
      userIDs: [{ name: 'hpcs' }],
      format: 'armored',
      config: { v6Keys: false, aeadProtect: false },
    });
    return { format, secretKey: new Secret(privateKey), publicKey };
  }
  const { privateKey, publicKey } = await generateOpenpgpKey({
    type: 'curve25519',
    userIDs: [],
    format: 'armored',
    config: { v6Keys: true, aeadProtect: true },
  });
  return { format, secretKey: new Secret(privateKey), publicKey };
}

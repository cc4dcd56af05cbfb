import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import { generateKey as generateOpenpgpKey } from 'openpgp';
import type { SealFormat } from '../record.ts';
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
 * @param format `openpgp`: a version 6 curve25519 key (RFC 9580); `age`: X25519 (age-encryption.org/v1)
 */
export async function generateKey(format: SealFormat): Promise<ArtefactKey> {
  if (format === 'age') {
    const identity = await generateX25519Identity();
    return { format, secretKey: new Secret(identity), publicKey: await identityToRecipient(identity) };
  }
  const { privateKey, publicKey } = await generateOpenpgpKey({
    type: 'curve25519',
    userIDs: [],
    format: 'armored',
    config: { v6Keys: true, aeadProtect: true },
  });
  return { format, secretKey: new Secret(privateKey), publicKey };
}

/**
 * Owner recipients: who can open what is sealed beside the holder of its own key, so that losing the vault, or the state directory,
 * does not lose the data.
 */
import { readFile } from 'node:fs/promises';
import type { Key, SignaturePacket, Subkey } from 'openpgp';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import type { SealFormat } from './format.ts';

/** Somebody who can open what is sealed, checked and fit for a format. */
export interface Recipient {
  /** What seals to it: `age1…`, or an armored certificate that holds the one encryption key which was found valid, and nothing of others. */
  readonly publicKey: string;
  /** Fingerprint of a certificate in upper-case hex, or `age1…`. */
  readonly fingerprint: string;
  /** User id of a certificate, as far as it has one: whatever its maker wrote there. */
  readonly owner: string;
  /** Whether a certificate says that its owner's programs open messages of the kind that `openpgp` makes. @see RFC 9580, 5.2.3.32 */
  readonly opensAead: boolean;
}

/**
 * Reads recipients and checks that each can be sealed to, now and in this format.
 *
 * Sealing itself does not look at the clock: a certificate that expires while a job waits in the queue must not cost its results.
 *
 * @param names of each either `age1…`, or a file with one or more OpenPGP certificates, armored or binary
 * @returns each once, in their order
 * @throws HpcsError `usage` for one that does not fit the format, is none, has expired, was revoked or has no key to encrypt to; `local`
 *   for a file that cannot be read
 */
export async function readRecipients(names: readonly string[], format: SealFormat): Promise<Recipient[]> {
  const found = new Map<string, Recipient>();
  for (const name of names) {
    for (const recipient of await recipientsOf(name, format)) found.set(recipient.fingerprint, recipient);
  }
  return [...found.values()];
}

/** A line for people: fingerprint and owner. */
export function describeRecipient({ fingerprint, owner }: Recipient): string {
  return owner === '' ? fingerprint : `${fingerprint} ${owner}`;
}

async function recipientsOf(name: string, format: SealFormat): Promise<Recipient[]> {
  // Not repeated in any message.
  if (/^AGE-SECRET-KEY-/i.test(name)) {
    throw new HpcsError('usage', 'recipient-secret', 'what was given as a recipient is a secret key', {
      suggestion: 'give its public key, which begins with age1: age-keygen -y FILE',
    });
  }
  const age = /^age1[0-9a-z]+$/.test(name);
  if (age && format !== 'age') throw unfit(name, 'an age recipient', format, '--format age, or an OpenPGP certificate');
  if (age) return [await ageRecipient(name)];
  const keys = await readCertificates(name);
  if (format === 'age') throw unfit(name, 'an OpenPGP certificate', format, '--format openpgp, or an age recipient');
  return Promise.all(keys.map((key) => openpgpRecipient(key, name)));
}

function unfit(name: string, kind: string, format: SealFormat, instead: string): HpcsError {
  return new HpcsError(
    'usage',
    'recipient-format',
    `the recipient ${name} is ${kind}, which the format ${format} cannot be sealed to`,
    {
      suggestion: `use ${instead}`,
    },
  );
}

async function ageRecipient(name: string): Promise<Recipient> {
  const { Encrypter } = await import('age-encryption');
  try {
    new Encrypter().addRecipient(name);
  } catch (error) {
    throw new HpcsError('usage', 'recipient-invalid', `${name} is not an age recipient: ${messageOf(error)}`, {
      cause: error,
      suggestion: 'copy it again: a letter of it is wrong or missing',
    });
  }
  return { publicKey: name, fingerprint: name, owner: '', opensAead: true };
}

async function readCertificates(file: string): Promise<Key[]> {
  let content: Buffer;
  try {
    content = await readFile(file);
  } catch (error) {
    throw new HpcsError(
      'local',
      'recipient-unreadable',
      `cannot read the recipient ${file}: ${systemCode(error) ?? 'unknown error'}`,
      {
        cause: error,
        suggestion: 'give a file with an OpenPGP certificate, or a public key that begins with age1',
      },
    );
  }
  const { readKeys } = await import('openpgp');
  let keys: Key[];
  try {
    const armored = !(content.readUInt8(0) & 0x80);
    keys = await (armored ? readKeys({ armoredKeys: content.toString('utf8') }) : readKeys({ binaryKeys: content }));
    if (keys.length === 0) throw new Error('no certificate');
  } catch (error) {
    throw new HpcsError('usage', 'recipient-invalid', `the recipient ${file} is not an OpenPGP certificate`, {
      cause: error,
      suggestion: 'give what this prints: gpg --export --armor FINGERPRINT, or sq cert export, or sop extract-cert',
    });
  }
  if (keys.some((key) => key.isPrivate())) {
    throw new HpcsError('usage', 'recipient-secret', `the recipient ${file} is a secret key, not a certificate`, {
      suggestion: 'keep it to yourself, and give its certificate: gpg --export --armor FINGERPRINT, or sop extract-cert',
    });
  }
  return keys;
}

async function openpgpRecipient(key: Key, file: string): Promise<Recipient> {
  const fingerprint = key.getFingerprint().toUpperCase();
  let encryptionKey: Key | Subkey;
  try {
    encryptionKey = await key.getEncryptionKey();
  } catch (error) {
    throw await unusable(key, `the certificate ${fingerprint} in ${file}`, error);
  }
  const primary = await key.getPrimaryUser().catch(() => undefined);
  const owner = primary?.user;
  // What version 6 keys say of themselves stands in a direct signature, which the package's types leave out.
  const { directSignatures } = key as unknown as { directSignatures: SignaturePacket[] };
  const about = key.keyPacket.version === 6 ? directSignatures.at(-1) : primary?.selfCertification;
  const features = about?.features?.[0] ?? 0;
  // Only what was found valid: sealing must not choose anew, and it travels in batch scripts.
  key.subkeys = key.subkeys.filter((subkey) => subkey === encryptionKey);
  key.users = owner === undefined ? [] : [owner];
  for (const user of key.users) user.otherCertifications = [];
  return {
    publicKey: key.armor(),
    fingerprint,
    owner: (owner?.userID?.userID ?? '').replaceAll(/\p{Cc}/gu, '?').slice(0, 100),
    opensAead: (features & seipdVersion2) !== 0,
  };
}

/** @see RFC 9580, section 5.2.3.32 */
const seipdVersion2 = 0x08;

async function unusable(key: Key, what: string, cause: unknown): Promise<HpcsError> {
  if (await key.isRevoked()) {
    return new HpcsError('usage', 'recipient-revoked', `${what} has been revoked`, {
      cause,
      suggestion: 'ask its owner for the one in its place',
    });
  }
  // Without a date nothing expires.
  const everFit = await key.getEncryptionKey(undefined, null).then(
    () => true,
    () => false,
  );
  if (everFit) {
    return new HpcsError('usage', 'recipient-expired', `${what} has expired, or is not valid yet`, {
      cause,
      suggestion: 'ask its owner for a current copy: its term may have been extended',
    });
  }
  return new HpcsError('usage', 'recipient-without-encryption', `${what} has no key that can be encrypted to`, {
    cause,
    suggestion: 'ask its owner for a certificate with a valid encryption subkey',
  });
}

/** What a vault record keeps of recipients: nothing, where there are none. */
export function recipientsField(recipients: readonly Recipient[]): { recipients?: string[] } {
  return recipients.length === 0 ? {} : { recipients: recipients.map(({ fingerprint }) => fingerprint) };
}

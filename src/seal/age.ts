/**
 * The age format, version 1: header by the age-encryption package, payload (STREAM over ChaCha20-Poly1305) by node:crypto,
 * which is ten times faster.
 *
 * @see https://age-encryption.org/v1
 */
import { createSecretKey, hkdfSync, randomBytes, type KeyObject } from 'node:crypto';
import { Decrypter, Encrypter, type Stanza } from 'age-encryption';
import { HpcsError, messageOf } from '../errors.ts';
import type { ByteReader } from './bytes.ts';
import { corrupt, truncated, unknownFormat, wrongKey } from './faults.ts';
import { ageMagic, openPayload } from './stream.ts';

const nonceSize = 16;
const tagSize = 16;

/** Headers hold a stanza a recipient, of 200 bytes (2 KiB with post-quantum ones). */
const longestHeader = 1024 * 1024;

/**
 * Begins an age file: its header with the payload's nonce, and the payload's key.
 *
 * @param recipients `age1…`
 * @throws HpcsError `usage` for a recipient that is none
 */
export async function ageHeader(recipients: readonly string[]): Promise<{ header: Uint8Array; key: KeyObject }> {
  const { header, fileKey } = await makeHeader(recipients);
  const nonce = randomBytes(nonceSize);
  return { header: Buffer.concat([header, nonce]), key: payloadKey(fileKey, nonce) };
}

/**
 * Opens an age file. Each piece that comes out has been authenticated.
 *
 * @param identities `AGE-SECRET-KEY-1…`
 * @throws HpcsError `integrity`
 */
export async function* openAge(reader: ByteReader, identities: readonly string[]): AsyncGenerator<Buffer, void, undefined> {
  const fileKey = await readHeader(await takeHeader(reader), identities);
  const nonce = await reader.read(nonceSize);
  if (nonce.length < nonceSize) throw truncated();
  yield* openPayload(reader, payloadKey(fileKey, nonce));
}

// The library does not hand out the file key of a new header; a recipient of our own, which adds no stanza, learns it.
async function makeHeader(recipients: readonly string[]): Promise<{ header: Buffer; fileKey: Uint8Array }> {
  const encrypter = new Encrypter();
  let fileKey: Uint8Array | undefined;
  encrypter.addRecipient({
    wrapFileKey: (key) => {
      fileKey = key;
      return [];
    },
  });
  let file: Uint8Array;
  try {
    if (recipients.length === 0) throw new Error('no recipient');
    for (const recipient of recipients) encrypter.addRecipient(recipient);
    file = await encrypter.encrypt('');
  } catch (error) {
    throw new HpcsError('usage', 'recipient-invalid', `not an age recipient: ${messageOf(error)}`, {
      cause: error,
      suggestion: 'give a public key that begins with age1',
    });
  }
  if (fileKey === undefined) throw new Error('age-encryption made a header without asking the recipients');
  // What follows the header is the library's payload of nothing, and its nonce: ours replace both.
  return { header: Buffer.from(file.subarray(0, file.length - nonceSize - tagSize)), fileKey };
}

/** Takes the bytes up to and including the line with the header's MAC. */
async function takeHeader(reader: ByteReader): Promise<Buffer> {
  const beginning = await reader.peek(ageMagic.length);
  if (beginning.toString('latin1') !== ageMagic) throw unknownFormat('another version of age');
  for (let size = 1024; ; size *= 2) {
    const seen = await reader.peek(size);
    // No line of a stanza begins with a dash but its first, and that one with "->".
    const mac = seen.indexOf('\n---', 0, 'latin1');
    const end = mac < 0 ? -1 : seen.indexOf('\n', mac + 1, 'latin1');
    if (end >= 0) return reader.read(end + 1);
    if (seen.length < size) throw truncated();
    if (size >= longestHeader) throw corrupt('its header does not end');
  }
}

async function readHeader(header: Buffer, identities: readonly string[]): Promise<Uint8Array> {
  const decrypter = new Decrypter();
  let matched = true;
  // The package does not look at the stanzas beside the one that it needs.
  decrypter.addIdentity({
    unwrapFileKey: (stanzas: Stanza[]) => {
      if (stanzas.length > 1 && stanzas.some(({ args: [type] }) => type === 'scrypt'))
        throw new Error('a passphrase beside keys');
      return null;
    },
  });
  try {
    for (const identity of identities) decrypter.addIdentity(identity);
  } catch (error) {
    throw new HpcsError('usage', 'key-invalid', 'the key is not a valid age secret key', {
      cause: error,
      suggestion: 'give all of the line that begins with AGE-SECRET-KEY-',
    });
  }
  // Asked last, and only where no identity has matched.
  decrypter.addIdentity({
    unwrapFileKey: () => {
      matched = false;
      return null;
    },
  });
  try {
    return await decrypter.decryptHeader(header);
  } catch (error) {
    if (!matched) throw wrongKey(error);
    throw corrupt(`its age header is not valid (${messageOf(error)})`, error);
  }
}

function payloadKey(fileKey: Uint8Array, nonce: Uint8Array): KeyObject {
  return createSecretKey(Buffer.from(hkdfSync('sha256', fileKey, nonce, 'payload', 32)));
}

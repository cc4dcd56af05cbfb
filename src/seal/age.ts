/**
 * The age format, version 1: header by the age-encryption package, payload (STREAM over ChaCha20-Poly1305) by node:crypto,
 * which is ten times faster.
 *
 * @see https://age-encryption.org/v1
 */
import { createCipheriv, createDecipheriv, createSecretKey, hkdfSync, randomBytes, type KeyObject } from 'node:crypto';
import { Decrypter, Encrypter, type Stanza } from 'age-encryption';
import { HpcsError, messageOf } from '../errors.ts';
import { blockSize, inBlocks, type ByteReader, type Bytes } from './bytes.ts';
import { corrupt, trailingData, truncated, unknownFormat, wrongKey } from './faults.ts';

/** First line of every age file. */
export const ageMagic = 'age-encryption.org/v1\n';

const chunkSize = 64 * 1024;
const tagSize = 16;
const sealedChunkSize = chunkSize + tagSize;
const nonceSize = 16;
const chunksPerBlock = blockSize / chunkSize;

/** Headers hold a stanza a recipient, of 200 bytes (2 KiB with post-quantum ones). */
const longestHeader = 1024 * 1024;

/**
 * Seals a byte stream.
 *
 * @param recipients `age1…`
 * @throws HpcsError `usage` for a recipient that is none
 */
export async function* sealAge(input: Bytes, recipients: readonly string[]): AsyncGenerator<Buffer, void, undefined> {
  const { header, fileKey } = await makeHeader(recipients);
  const nonce = randomBytes(nonceSize);
  const payload = new PayloadSealer(payloadKey(fileKey, nonce));
  yield Buffer.concat([header, nonce]);
  // The last chunk is marked as such: each block waits until another one follows it.
  let held: Buffer | undefined;
  for await (const block of inBlocks(input, blockSize)) {
    if (held !== undefined) yield payload.seal(held, false);
    held = block;
  }
  yield payload.seal(held ?? Buffer.alloc(0), true);
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
  const payload = new PayloadOpener(payloadKey(fileKey, nonce));
  for (let first = true, last = false; !last; first = false) {
    const block = await reader.read(chunksPerBlock * sealedChunkSize);
    last = await reader.atEnd();
    if (block.length === 0) throw truncated();
    // An empty chunk is allowed only as the whole of an empty payload.
    if (block.length % sealedChunkSize === tagSize && !(first && block.length === tagSize))
      throw corrupt('its last part is empty');
    yield payload.open(block, last);
  }
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
    throw new HpcsError('usage', 'key-invalid', 'the key is not a valid age secret key', { cause: error });
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

/** Nonce of a chunk: its index in eleven bytes, then one that marks the last. */
class ChunkNonce {
  readonly bytes = Buffer.alloc(12);
  #index = 0;

  next(last: boolean): Buffer {
    // 2^48 chunks are 16 EiB.
    this.bytes.writeUIntBE(this.#index++, 5, 6);
    this.bytes[11] = last ? 1 : 0;
    return this.bytes;
  }
}

class PayloadSealer {
  readonly #nonce = new ChunkNonce();
  readonly #key: KeyObject;

  constructor(key: KeyObject) {
    this.#key = key;
  }

  /** Seals some whole chunks, the last of which may be short when `last`. */
  seal(plain: Buffer, last: boolean): Buffer {
    const chunks = Math.max(1, Math.ceil(plain.length / chunkSize));
    const sealed = Buffer.allocUnsafeSlow(plain.length + chunks * tagSize);
    for (let chunk = 0, end = 0; chunk < chunks; chunk++) {
      const nonce = this.#nonce.next(last && chunk === chunks - 1);
      const cipher = createCipheriv('chacha20-poly1305', this.#key, nonce, { authTagLength: tagSize });
      end += cipher.update(plain.subarray(chunk * chunkSize, (chunk + 1) * chunkSize)).copy(sealed, end);
      cipher.final();
      end += cipher.getAuthTag().copy(sealed, end);
    }
    return sealed;
  }
}

class PayloadOpener {
  readonly #nonce = new ChunkNonce();
  readonly #key: KeyObject;

  constructor(key: KeyObject) {
    this.#key = key;
  }

  /** Opens some whole sealed chunks, the last of which may be short when `last`. Nothing comes out unless all are good. */
  open(sealed: Buffer, last: boolean): Buffer {
    const chunks = Math.ceil(sealed.length / sealedChunkSize);
    const plain = Buffer.allocUnsafeSlow(Math.max(0, sealed.length - chunks * tagSize));
    for (let chunk = 0, end = 0; chunk < chunks; chunk++) {
      const one = sealed.subarray(chunk * sealedChunkSize, (chunk + 1) * sealedChunkSize);
      const ends = last && chunk === chunks - 1;
      const opened = this.#chunk(one, this.#nonce.next(ends));
      if (opened === undefined) throw this.#fault(one, ends);
      end += opened.copy(plain, end);
    }
    return plain;
  }

  #chunk(sealed: Buffer, nonce: Buffer): Buffer | undefined {
    if (sealed.length < tagSize) return undefined;
    const decipher = createDecipheriv('chacha20-poly1305', this.#key, nonce, { authTagLength: tagSize });
    decipher.setAuthTag(sealed.subarray(sealed.length - tagSize));
    const plain = decipher.update(sealed.subarray(0, sealed.length - tagSize));
    try {
      decipher.final();
      return plain;
    } catch {
      return undefined;
    }
  }

  /** Why a chunk did not open: a good chunk at the wrong end of the file, or a bad chunk. */
  #fault(sealed: Buffer, ends: boolean): HpcsError {
    const nonce = Buffer.from(this.#nonce.bytes);
    nonce[11] = ends ? 0 : 1;
    if (this.#chunk(sealed, nonce) !== undefined) return ends ? truncated() : trailingData();
    if (!ends) return corrupt('a part of it does not authenticate');
    return sealed.length < tagSize ? truncated() : corrupt('its last part does not authenticate, or is cut short');
  }
}

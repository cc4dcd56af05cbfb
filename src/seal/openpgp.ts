/**
 * OpenPGP messages with authenticated encryption (SEIPD version 2): session keys by the openpgp package, bulk data by
 * node:crypto, which is some hundred times faster in OCB mode.
 *
 * @see RFC 9580, sections 5.1, 5.9, 5.13.2 and 10.3
 */
import {
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  hkdfSync,
  randomBytes,
  type CipherOCB,
  type DecipherOCB,
  type KeyObject,
} from 'node:crypto';
import { decryptSessionKeys, encryptSessionKey, readKey, readMessage, readPrivateKey, type PrivateKey } from 'openpgp';
import { HpcsError } from '../errors.ts';
import { ByteReader, inBlocks, type Bytes } from './bytes.ts';
import { corrupt, trailingData, truncated, unknownFormat, wrongKey } from './faults.ts';
import { definiteLength, packetBody, packetType, partialLength, readPacketHeader, typeOctet } from './packets.ts';

const tagSize = 16;
const saltSize = 32;

/** Ours: AES-256, OCB, chunks of 2^(12+6) bytes = 256 KiB, which stay in a core's cache. */
const ours = { cipher: 9, aead: 2, chunkOctet: 12 };

/** The largest chunk that RFC 9580 allows: 4 MiB. */
const largestChunkOctet = 16;

/** Parts of 1 MiB. */
const partExponent = 20;
const partSize = 2 ** partExponent;

/** @see RFC 9580, section 4.2.1.4 */
const smallestFirstPart = 512;

/** Key packets take 100 bytes a recipient, or some kilobytes with large RSA keys. */
const longestKeyPackets = 256 * 1024;

/** Name, key size in bytes. @see RFC 9580, section 9.3 */
const ciphers: Readonly<Record<number, { name: string; keySize: number }>> = {
  7: { name: 'aes-128', keySize: 16 },
  8: { name: 'aes-192', keySize: 24 },
  9: { name: 'aes-256', keySize: 32 },
};

/** Name, nonce size in bytes. EAX (1) is missing in node:crypto. @see RFC 9580, section 9.6 */
const modes: Readonly<Record<number, { name: string; nonceSize: number }>> = {
  2: { name: 'ocb', nonceSize: 15 },
  3: { name: 'gcm', nonceSize: 12 },
};

/**
 * Seals a byte stream as a literal packet in an SEIPD version 2 packet.
 *
 * @param recipients armored certificates
 * @throws HpcsError `usage` for a recipient that is none
 */
export async function* sealOpenpgp(input: Bytes, recipients: readonly string[]): AsyncGenerator<Buffer, void, undefined> {
  const sessionKey = randomBytes(32);
  const keyPackets = await makeKeyPackets(sessionKey, recipients);
  yield Buffer.concat([keyPackets, Buffer.of(typeOctet(packetType.encrypted))]);
  const header = Buffer.of(2, ours.cipher, ours.aead, ours.chunkOctet);
  const sealer = new ChunkSealer(new ChunkCipher(header, randomBytes(saltSize), sessionKey));
  for await (const piece of literalPacket(input)) yield* sealer.push(piece);
  yield* sealer.finish();
}

/**
 * Opens an OpenPGP message. Each piece that comes out has been authenticated.
 *
 * @param armoredKeys unprotected secret keys
 * @throws HpcsError `integrity`
 */
export async function* openOpenpgp(reader: ByteReader, armoredKeys: readonly string[]): AsyncGenerator<Buffer, void, undefined> {
  const keys = await Promise.all(armoredKeys.map((armoredKey) => parseSecretKey(armoredKey)));
  const keyPackets: KeyPacket[] = [];
  for (let size = 0; ;) {
    const header = await readPacketHeader(reader);
    if (header === undefined) throw truncated();
    if (header.type === packetType.encrypted) {
      const body = packetBody(reader, header);
      yield* openEncrypted(body, () => findSessionKey(keyPackets, keys));
      if (!(await reader.atEnd())) throw trailingData();
      return;
    }
    const known: number[] = [
      packetType.publicKeySessionKey,
      packetType.passwordSessionKey,
      packetType.marker,
      packetType.padding,
    ];
    if (!known.includes(header.type)) throw unknownFormat(`an OpenPGP message with a packet of type ${header.type}`);
    size += header.length;
    if (header.partial || size > longestKeyPackets) throw corrupt('its key packets are too long');
    const body = await reader.read(header.length);
    if (body.length < header.length) throw truncated();
    if (header.type === packetType.publicKeySessionKey) keyPackets.push({ header: header.raw, body });
  }
}

/**
 * Opens the body of an SEIPD version 2 packet and yields what its literal packet holds.
 *
 * @param findKey finds the session key; asked only once the version is known to be one that can be opened
 * @throws HpcsError `integrity`
 */
export async function* openEncrypted(body: Bytes, findKey: () => Promise<Uint8Array>): AsyncGenerator<Buffer, void, undefined> {
  await using packets = new ByteReader(openChunks(new ByteReader(body), findKey));
  let found = false;
  for (let header = await readPacketHeader(packets); header !== undefined; header = await readPacketHeader(packets)) {
    const content = packetBody(packets, header);
    if (header.type === packetType.literal && !found) {
      found = true;
      yield* literalContent(new ByteReader(content));
    } else if (header.type === packetType.padding || header.type === packetType.marker) {
      for await (const piece of content) void piece;
    } else {
      throw unknownFormat(`an OpenPGP message that holds a packet of type ${header.type}`);
    }
  }
  if (!found) throw corrupt('it holds no literal data');
}

async function makeKeyPackets(sessionKey: Uint8Array, recipients: readonly string[]): Promise<Uint8Array> {
  try {
    if (recipients.length === 0) throw new Error('no recipient');
    return await encryptSessionKey({
      data: sessionKey,
      algorithm: 'aes256',
      aeadAlgorithm: 'ocb',
      encryptionKeys: await Promise.all(recipients.map((armoredKey) => readKey({ armoredKey }))),
      format: 'binary',
    });
  } catch (error) {
    throw new HpcsError('usage', 'recipient-invalid', 'a recipient is not an OpenPGP certificate that can be encrypted to', {
      cause: error,
      suggestion: 'give an armored certificate with a valid encryption key',
    });
  }
}

async function parseSecretKey(armoredKey: string): Promise<PrivateKey> {
  try {
    return await readPrivateKey({ armoredKey });
  } catch (error) {
    throw new HpcsError('usage', 'key-invalid', 'the key is not a valid OpenPGP secret key', { cause: error });
  }
}

/** A public-key encrypted session key packet. */
interface KeyPacket {
  header: Buffer;
  body: Buffer;
}

async function findSessionKey(packets: readonly KeyPacket[], keys: readonly PrivateKey[]): Promise<Uint8Array> {
  const own = keys.flatMap((key) => key.getKeys().map((part) => part.getFingerprint()));
  const fitting = packets.filter(({ body }) => addressee(body) === undefined || own.includes(addressee(body) ?? ''));
  if (fitting.length === 0) throw wrongKey();
  try {
    const binaryMessage = Buffer.concat(fitting.flatMap(({ header, body }) => [header, body]));
    const message = await readMessage({ binaryMessage });
    const [sessionKey] = await decryptSessionKeys({ message, decryptionKeys: [...keys] });
    if (sessionKey !== undefined) return sessionKey.data;
  } catch (error) {
    if (fitting.some(({ body }) => addressee(body) !== undefined)) throw corrupt('its session key does not open', error);
    throw wrongKey(error);
  }
  throw wrongKey();
}

/**
 * Fingerprint, in hex, of the key that a version 6 key packet is for; undefined for other versions and hidden recipients.
 * The openpgp package looks at a part of it only, and lets the rest be altered.
 *
 * @see RFC 9580, section 5.1.2
 */
function addressee(body: Buffer): string | undefined {
  const [version, length = 0, keyVersion] = body;
  if (version !== 6 || length === 0) return undefined;
  const fits = (keyVersion === 4 && length === 21) || (keyVersion === 6 && length === 33);
  return fits ? body.toString('hex', 3, 2 + length) : '';
}

/**
 * The stream as one literal packet, in parts each after its length. The first part has to hold the packet's own header; those
 * after it make up for that, so that from the second block on each whole block is one part, and none has to be copied.
 */
async function* literalPacket(input: Bytes): AsyncGenerator<Buffer, void, undefined> {
  yield Buffer.of(typeOctet(packetType.literal));
  // Binary, no file name, no date.
  const header = Buffer.from([0x62, 0, 0, 0, 0, 0]);
  let held: Buffer | undefined;
  let first = true;
  for await (const block of inBlocks(input, partSize)) {
    if (held !== undefined) {
      if (first) yield* firstParts(header, held);
      else yield* part(held);
      first = false;
    }
    held = block;
  }
  const last = held ?? Buffer.alloc(0);
  yield definiteLength(first ? header.length + last.length : last.length);
  if (first) yield header;
  yield last;
}

function* firstParts(header: Buffer, block: Buffer): Generator<Buffer, void, undefined> {
  let taken = smallestFirstPart - header.length;
  yield* part(Buffer.concat([header, block.subarray(0, taken)]));
  for (let size = partSize; size > 0; size >>>= 1) {
    if (block.length - taken < size) continue;
    yield* part(block.subarray(taken, taken + size));
    taken += size;
  }
}

/** A part, whose size must be a power of two. */
function* part(bytes: Buffer): Generator<Buffer, void, undefined> {
  yield Buffer.of(partialLength(Math.log2(bytes.length)));
  yield bytes;
}

async function* literalContent(reader: ByteReader): AsyncGenerator<Buffer, void, undefined> {
  const start = await reader.read(2);
  const rest = await reader.read((start[1] ?? 0) + 4);
  if (start.length < 2 || rest.length < (start[1] ?? 0) + 4) throw corrupt('its literal packet is too short');
  yield* reader.rest();
}

/** The key and the nonces of one SEIPD version 2 packet. */
class ChunkCipher {
  /** Version, cipher, mode, chunk size and salt: the beginning of the packet's body. */
  readonly header: Buffer;
  readonly chunkSize: number;
  readonly #algorithm: 'aes-256-ocb';
  readonly #key: KeyObject;
  readonly #nonce: Buffer;
  readonly #associated: Buffer;
  #index = 0;

  constructor(parameters: Buffer, salt: Buffer, sessionKey: Uint8Array) {
    const [, cipherId = 0, aeadId = 0, chunkOctet = 0] = parameters;
    const cipher = ciphers[cipherId];
    const mode = modes[aeadId];
    if (cipher === undefined || mode === undefined || chunkOctet > largestChunkOctet)
      throw unknownFormat(`OpenPGP cipher ${cipherId}, mode ${aeadId}, chunk size ${chunkOctet}`);
    if (sessionKey.length !== cipher.keySize) throw corrupt('its session key does not fit its cipher');
    this.header = Buffer.concat([parameters, salt]);
    this.chunkSize = 2 ** (chunkOctet + 6);
    this.#associated = Buffer.concat([Buffer.of(typeOctet(packetType.encrypted)), parameters]);
    const derived = Buffer.from(hkdfSync('sha256', sessionKey, salt, this.#associated, cipher.keySize + mode.nonceSize - 8));
    // Handed over as bytes it would be taken in anew for each chunk.
    this.#key = createSecretKey(derived.subarray(0, cipher.keySize));
    this.#nonce = Buffer.concat([derived.subarray(cipher.keySize), Buffer.alloc(8)]);
    // Node's types list each algorithm by name; these all behave as this one does.
    this.#algorithm = `${cipher.name}-${mode.name}` as 'aes-256-ocb';
  }

  /** The cipher for the next chunk. `total` only for the tag at the end: the size of the whole plaintext. */
  sealer(total?: number): CipherOCB {
    const cipher = createCipheriv(this.#algorithm, this.#key, this.#nextNonce(), { authTagLength: tagSize });
    this.#associate(cipher, total);
    return cipher;
  }

  /** Opens the next chunk, or where `total` is given checks the tag at the end. */
  open(sealed: Buffer, total?: number): Buffer {
    const decipher = createDecipheriv(this.#algorithm, this.#key, this.#nextNonce(), { authTagLength: tagSize });
    this.#associate(decipher, total);
    decipher.setAuthTag(sealed.subarray(sealed.length - tagSize));
    const plain = decipher.update(sealed.subarray(0, sealed.length - tagSize));
    try {
      const rest = decipher.final();
      return rest.length === 0 ? plain : Buffer.concat([plain, rest]);
    } catch (error) {
      throw corrupt(total === undefined ? 'a part of it does not authenticate' : 'its end does not authenticate', error);
    }
  }

  #nextNonce(): Buffer {
    this.#nonce.writeUIntBE(this.#index++, this.#nonce.length - 6, 6);
    return this.#nonce;
  }

  #associate(cipher: CipherOCB | DecipherOCB, total: number | undefined): void {
    if (total === undefined) {
      cipher.setAAD(this.#associated, { plaintextLength: 0 });
    } else {
      const size = Buffer.alloc(8);
      size.writeBigUInt64BE(BigInt(total));
      cipher.setAAD(Buffer.concat([this.#associated, size]), { plaintextLength: 0 });
    }
  }
}

/** Turns plaintext into the body of an SEIPD packet, in parts of 1 MiB. */
class ChunkSealer {
  readonly #cipher: ChunkCipher;
  #chunk: CipherOCB | undefined;
  #chunkUsed = 0;
  #total = 0;
  #part = newPart();
  #partUsed = 1;

  constructor(cipher: ChunkCipher) {
    this.#cipher = cipher;
    this.#partUsed += cipher.header.copy(this.#part, this.#partUsed);
  }

  /** Seals a piece; yields the parts that became full. */
  *push(plain: Buffer): Generator<Buffer, void, undefined> {
    for (let taken = 0; taken < plain.length;) {
      this.#chunk ??= this.#cipher.sealer();
      const piece = plain.subarray(taken, taken + this.#cipher.chunkSize - this.#chunkUsed);
      yield* this.#put(this.#chunk.update(piece));
      taken += piece.length;
      this.#chunkUsed += piece.length;
      if (this.#chunkUsed === this.#cipher.chunkSize) yield* this.#endChunk(this.#chunk);
    }
    this.#total += plain.length;
  }

  /** The last part, with the tag that seals the number of chunks. */
  *finish(): Generator<Buffer, void, undefined> {
    if (this.#chunk !== undefined) yield* this.#endChunk(this.#chunk);
    yield* this.#endChunk(this.#cipher.sealer(this.#total));
    yield definiteLength(this.#partUsed - 1);
    if (this.#partUsed > 1) yield this.#part.subarray(1, this.#partUsed);
  }

  *#endChunk(chunk: CipherOCB): Generator<Buffer, void, undefined> {
    // OCB holds back an incomplete block until here.
    yield* this.#put(chunk.final());
    yield* this.#put(chunk.getAuthTag());
    this.#chunk = undefined;
    this.#chunkUsed = 0;
  }

  *#put(bytes: Buffer): Generator<Buffer, void, undefined> {
    for (let taken = 0; taken < bytes.length;) {
      const copied = bytes.copy(this.#part, this.#partUsed, taken);
      taken += copied;
      this.#partUsed += copied;
      if (this.#partUsed === this.#part.length) {
        yield this.#part;
        this.#part = newPart();
        this.#partUsed = 1;
      }
    }
  }
}

function newPart(): Buffer {
  const part = Buffer.allocUnsafeSlow(1 + partSize);
  part[0] = partialLength(partExponent);
  return part;
}

/** Opens the chunks of an SEIPD version 2 packet's body. */
async function* openChunks(body: ByteReader, findKey: () => Promise<Uint8Array>): AsyncGenerator<Buffer, void, undefined> {
  const version = (await body.peek(1))[0];
  if (version === 1)
    throw unknownFormat('OpenPGP encryption of the older kind (SEIPD version 1), which can be checked only at its end');
  if (version !== undefined && version !== 2) throw unknownFormat(`OpenPGP encryption (SEIPD) version ${version}`);
  const parameters = await body.read(4);
  const salt = await body.read(saltSize);
  if (salt.length < saltSize) throw truncated();
  const cipher = new ChunkCipher(parameters, salt, await findKey());
  const sealedChunkSize = cipher.chunkSize + tagSize;
  let total = 0;
  for (;;) {
    // As long as a whole chunk and the tag at the end are there, the chunk is not the last thing.
    const seen = await body.peek(sealedChunkSize + tagSize);
    const ends = seen.length < sealedChunkSize + tagSize;
    const size = ends ? seen.length - tagSize : sealedChunkSize;
    if (size < 0 || (size > 0 && size <= tagSize)) throw corrupt('its parts have impossible sizes');
    if (size > 0) {
      const plain = cipher.open(await body.read(size));
      total += plain.length;
      yield plain;
    }
    if (ends) break;
  }
  cipher.open(await body.read(tagSize), total);
}

/**
 * The bulk data of OpenPGP messages: literal data in symmetrically encrypted and integrity protected data (SEIPD) packets of
 * version 2, by node:crypto. Kept apart from the openpgp package, which threads that only encrypt have no use for.
 *
 * @see RFC 9580, sections 5.9 and 5.13.2
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
import type { ByteReader, Bytes } from './bytes.ts';
import { corrupt, truncated, unknownFormat } from './faults.ts';
import { packetType, typeOctet } from './packets.ts';
import { literalPacket, PartWriter } from './parts.ts';

const tagSize = 16;
const saltSize = 32;

/** Ours: AES-256, OCB, chunks of 2^(12+6) bytes = 256 KiB, which stay in a core's cache. */
const ours = { cipher: 9, aead: 2, chunkOctet: 12 };

/** The largest chunk that RFC 9580 allows: 4 MiB. */
const largestChunkOctet = 16;

/** Bytes that are handed to the cipher at once: its answer is then small enough for memory that is at hand. */
export const updateSize = 64 * 1024;

/** Name, key size in bytes. @see RFC 9580, section 9.3 */
const ciphers: Readonly<Record<number, { name: string; keySize: number }>> = {
  7: { name: 'aes-128', keySize: 16 },
  8: { name: 'aes-192', keySize: 24 },
  9: { name: 'aes-256', keySize: 32 },
};

/** EAX, which node:crypto does not have. */
const eax = 1;

/** Name, nonce size in bytes. @see RFC 9580, section 9.6 */
const modes: Readonly<Record<number, { name: string; nonceSize: number }>> = {
  2: { name: 'ocb', nonceSize: 15 },
  3: { name: 'gcm', nonceSize: 12 },
};

/** What one SEIPD packet is encrypted with. Can be handed to another thread. */
export interface MessageKey {
  /** Version, cipher, mode, chunk size: four octets. */
  parameters: Uint8Array;
  /** 32 octets. */
  salt: Uint8Array;
  key: KeyObject;
  /** The nonces' beginning, the same for all chunks. */
  noncePrefix: Uint8Array;
}

/** A fresh message key in the parameters that we write. */
export function newMessageKey(sessionKey: Uint8Array): MessageKey {
  return messageKey(Buffer.of(2, ours.cipher, ours.aead, ours.chunkOctet), randomBytes(saltSize), sessionKey);
}

/** @throws HpcsError `integrity` for parameters that are not known, or do not fit the session key */
function messageKey(parameters: Uint8Array, salt: Uint8Array, sessionKey: Uint8Array): MessageKey {
  const { cipher, mode } = parametersOf(parameters);
  if (sessionKey.length !== cipher.keySize) throw corrupt('its session key does not fit its cipher');
  const info = Buffer.concat([Buffer.of(typeOctet(packetType.encrypted)), parameters]);
  const derived = Buffer.from(hkdfSync('sha256', sessionKey, salt, info, cipher.keySize + mode.nonceSize - 8));
  return {
    parameters,
    salt,
    // Handed over as bytes it would be taken in anew for each chunk.
    key: createSecretKey(derived.subarray(0, cipher.keySize)),
    noncePrefix: derived.subarray(cipher.keySize),
  };
}

function parametersOf(parameters: Uint8Array): {
  cipher: { name: string; keySize: number };
  mode: { name: string; nonceSize: number };
  chunkSize: number;
} {
  const [, cipherId = 0, aeadId = 0, chunkOctet = 0] = parameters;
  const cipher = ciphers[cipherId];
  const mode = modes[aeadId];
  if (aeadId === eax) throw unknownFormat('OpenPGP in EAX mode, which this program does not open');
  if (cipher === undefined || mode === undefined || chunkOctet > largestChunkOctet)
    throw unknownFormat(`OpenPGP cipher ${cipherId}, mode ${aeadId}, chunk size ${chunkOctet}`);
  return { cipher, mode, chunkSize: 2 ** (chunkOctet + 6) };
}

/**
 * Seals a byte stream as a literal packet in an SEIPD packet of version 2: all that follows a message's key packets.
 *
 * @param allocate memory for a part, of 1 MiB and one octet; each is yielded once, and not touched afterwards
 */
export async function* sealSeipd(
  input: Bytes,
  key: MessageKey,
  allocate: (size: number) => Buffer = (size) => Buffer.allocUnsafeSlow(size),
): AsyncGenerator<Buffer, void, undefined> {
  yield Buffer.of(typeOctet(packetType.encrypted));
  const sealer = new ChunkSealer(new ChunkCipher(key), allocate);
  for await (const piece of literalPacket(input)) yield* sealer.push(piece);
  yield* sealer.finish();
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

  constructor({ parameters, salt, key, noncePrefix }: MessageKey) {
    const { cipher, mode, chunkSize } = parametersOf(parameters);
    this.header = Buffer.concat([parameters, salt]);
    this.chunkSize = chunkSize;
    this.#associated = Buffer.concat([Buffer.of(typeOctet(packetType.encrypted)), parameters]);
    this.#key = key;
    this.#nonce = Buffer.concat([noncePrefix, Buffer.alloc(8)]);
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
  readonly #parts: PartWriter;

  constructor(cipher: ChunkCipher, allocate: (size: number) => Buffer) {
    this.#cipher = cipher;
    this.#parts = new PartWriter(cipher.header, allocate);
  }

  /** Seals a piece; yields the parts that became full. */
  *push(plain: Buffer): Generator<Buffer, void, undefined> {
    for (let taken = 0; taken < plain.length;) {
      this.#chunk ??= this.#cipher.sealer();
      const room = Math.min(updateSize, this.#cipher.chunkSize - this.#chunkUsed);
      const piece = plain.subarray(taken, taken + room);
      yield* this.#parts.put(this.#chunk.update(piece));
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
    yield this.#parts.last();
  }

  *#endChunk(chunk: CipherOCB): Generator<Buffer, void, undefined> {
    // OCB holds back an incomplete block until here.
    yield* this.#parts.put(chunk.final());
    yield* this.#parts.put(chunk.getAuthTag());
    this.#chunk = undefined;
    this.#chunkUsed = 0;
  }
}

/** Opens the chunks of an SEIPD version 2 packet's body. */
export async function* openChunks(body: ByteReader, findKey: () => Promise<Uint8Array>): AsyncGenerator<Buffer, void, undefined> {
  const parameters = await body.read(4);
  const salt = await body.read(saltSize);
  if (salt.length < saltSize) throw truncated();
  const cipher = new ChunkCipher(messageKey(parameters, salt, await findKey()));
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

/**
 * The payload of age files: STREAM over ChaCha20-Poly1305, by node:crypto. Kept apart from the age-encryption package, which
 * threads that only encrypt have no use for.
 *
 * @see https://age-encryption.org/v1, "Payload"
 */
import { createCipheriv, createDecipheriv, type KeyObject } from 'node:crypto';
import type { HpcsError } from '../errors.ts';
import { blockSize, free, inBlocks, type ByteReader, type Bytes } from './bytes.ts';
import { corrupt, trailingData, truncated } from './faults.ts';

/** First line of every age file. */
export const ageMagic = 'age-encryption.org/v1\n';

const chunkSize = 64 * 1024;
const tagSize = 16;
const sealedChunkSize = chunkSize + tagSize;
const chunksPerBlock = blockSize / chunkSize;

/**
 * Seals a byte stream: all that follows a file's header and nonce.
 *
 * @param allocate memory for some sealed chunks of together about 1 MiB; each is yielded once, and not touched afterwards
 */
export async function* sealPayload(
  input: Bytes,
  key: KeyObject,
  allocate: (size: number) => Buffer = (size) => Buffer.allocUnsafeSlow(size),
): AsyncGenerator<Buffer, void, undefined> {
  const payload = new PayloadSealer(key, allocate);
  // The last chunk is marked as such: each block waits until another one follows it.
  let held: Buffer | undefined;
  for await (const block of inBlocks(input, blockSize)) {
    if (held !== undefined) yield payload.seal(held, false);
    held = block;
  }
  yield payload.seal(held ?? Buffer.alloc(0), true);
}

/** Opens a payload. Each piece that comes out has been authenticated. @throws HpcsError `integrity` */
export async function* openPayload(reader: ByteReader, key: KeyObject): AsyncGenerator<Buffer, void, undefined> {
  const payload = new PayloadOpener(key);
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
  readonly #allocate: (size: number) => Buffer;

  constructor(key: KeyObject, allocate: (size: number) => Buffer) {
    this.#key = key;
    this.#allocate = allocate;
  }

  /** Seals some whole chunks, the last of which may be short when `last`. */
  seal(plain: Buffer, last: boolean): Buffer {
    const chunks = Math.max(1, Math.ceil(plain.length / chunkSize));
    const sealed = this.#allocate(plain.length + chunks * tagSize);
    for (let chunk = 0, end = 0; chunk < chunks; chunk++) {
      const nonce = this.#nonce.next(last && chunk === chunks - 1);
      const cipher = createCipheriv('chacha20-poly1305', this.#key, nonce, { authTagLength: tagSize });
      const bytes = cipher.update(plain.subarray(chunk * chunkSize, (chunk + 1) * chunkSize));
      end += bytes.copy(sealed, end);
      free(bytes);
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

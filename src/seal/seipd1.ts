/**
 * The older bulk encryption of OpenPGP, which GnuPG reads in every version: literal data in SEIPD packets of version 1, AES in CFB
 * mode with a SHA-1 digest (MDC) at the end, by node:crypto. That digest is all that tells altered data, and it stands at the end.
 *
 * @see RFC 9580, sections 5.13.1 and 12.9
 */
import {
  createCipheriv,
  createHash,
  createSecretKey,
  randomBytes,
  timingSafeEqual,
  type Cipheriv,
  type Hash,
  type KeyObject,
} from 'node:crypto';
import { blockSize, free, type ByteReader, type Bytes } from './bytes.ts';
import { corrupt, truncated } from './faults.ts';
import { packetType, typeOctet } from './packets.ts';
import { literalPacket, PartWriter } from './parts.ts';
import { updateSize } from './seipd.ts';

const version = 1;
const cipherBlock = 16;
/** Random octets of a cipher block, the last two of them again. */
const prefixSize = cipherBlock + 2;
/** Type and length of the digest's packet, which are digested too. */
const digestHeader = Buffer.of(0xd3, 0x14);
const digestSize = 20;
const trailerSize = digestHeader.length + digestSize;

/**
 * Seals a byte stream as a literal packet in an SEIPD packet of version 1: all that follows a message's key packets.
 *
 * @param key session key, of 32 octets
 * @param allocate memory for a part, of 1 MiB and one octet; each is yielded once, and not touched afterwards
 */
export async function* sealSeipd1(
  input: Bytes,
  key: KeyObject,
  allocate: (size: number) => Buffer = (size) => Buffer.allocUnsafeSlow(size),
): AsyncGenerator<Buffer, void, undefined> {
  yield Buffer.of(typeOctet(packetType.encrypted));
  const sealer = new CfbSealer(key, allocate);
  for await (const piece of literalPacket(input)) yield* sealer.push(piece);
  yield* sealer.finish();
}

/** Turns plaintext into the body of an SEIPD packet of version 1, in parts of 1 MiB. */
class CfbSealer {
  readonly #cipher: Cipheriv;
  readonly #hash = createHash('sha1');
  readonly #parts: PartWriter;

  constructor(key: KeyObject, allocate: (size: number) => Buffer) {
    this.#cipher = createCipheriv('aes-256-cfb', key, Buffer.alloc(cipherBlock));
    const random = randomBytes(cipherBlock);
    const prefix = Buffer.concat([random, random.subarray(-2)]);
    this.#hash.update(prefix);
    this.#parts = new PartWriter(Buffer.concat([Buffer.of(version), this.#cipher.update(prefix)]), allocate);
  }

  /** Seals a piece; yields the parts that became full. */
  *push(plain: Buffer): Generator<Buffer, void, undefined> {
    for (let taken = 0; taken < plain.length; taken += updateSize) {
      const piece = plain.subarray(taken, taken + updateSize);
      this.#hash.update(piece);
      yield* this.#parts.put(this.#cipher.update(piece));
    }
  }

  /** The last part, with the digest of all. */
  *finish(): Generator<Buffer, void, undefined> {
    const digest = this.#hash.update(digestHeader).digest();
    yield* this.#parts.put(this.#cipher.update(Buffer.concat([digestHeader, digest])));
    yield this.#parts.last();
  }
}

/**
 * Opens the body of an SEIPD packet of version 1. What comes out before the end has **not** been authenticated: nothing of it may be
 * used, or shown to others, before the iteration has ended without an error. The last 1 MiB comes out only then.
 *
 * @param body from the version octet on
 * @param findKey finds the session key: 16, 24 or 32 octets, for AES
 * @throws HpcsError `integrity`
 */
export async function* openSeipd1(body: ByteReader, findKey: () => Promise<Uint8Array>): AsyncGenerator<Buffer, void, undefined> {
  await body.read(1);
  const sessionKey = await findKey();
  const cipher = new CfbOpener(sessionKey);
  const hash = createHash('sha1');
  for (let skip = prefixSize; ; skip = 0) {
    const ends = (await body.peek(blockSize + trailerSize)).length < blockSize + trailerSize;
    const plain = cipher.open(await body.read(ends ? blockSize + trailerSize : blockSize));
    // The repeated octets of the prefix are not compared: whoever can ask often would learn from the answer.
    if (ends) {
      if (plain.length < skip + trailerSize) throw truncated();
      checkEnd(hash, plain);
      yield plain.subarray(skip, -trailerSize);
      return;
    }
    hash.update(plain);
    yield plain.subarray(skip);
  }
}

function checkEnd(hash: Hash, plain: Buffer): void {
  const digest = hash.update(plain.subarray(0, -digestSize)).digest();
  const trailer = plain.subarray(-trailerSize);
  const expected = Buffer.concat([digestHeader, digest]);
  if (!timingSafeEqual(trailer, expected)) throw corrupt('its end does not authenticate, or is cut short');
}

/** CFB the other way, many blocks at once: twice as fast as node:crypto's own, which goes from block to block. */
class CfbOpener {
  readonly #encrypt: Cipheriv;
  /** The last block of ciphertext, the first time zeros. */
  readonly #last = Buffer.alloc(cipherBlock);

  constructor(sessionKey: Uint8Array) {
    const name = { 16: 'aes-128-ecb', 24: 'aes-192-ecb', 32: 'aes-256-ecb' }[sessionKey.length];
    if (name === undefined) throw corrupt('its session key does not fit its cipher');
    this.#encrypt = createCipheriv(name, createSecretKey(sessionKey), null).setAutoPadding(false);
  }

  /** @param sealed whole cipher blocks, but for the last time */
  open(sealed: Buffer): Buffer {
    const size = Math.ceil(sealed.length / cipherBlock) * cipherBlock;
    // A block of plaintext is one of ciphertext and the encrypted one before that.
    const before = Buffer.allocUnsafeSlow(size);
    this.#last.copy(before);
    sealed.copy(before, cipherBlock, 0, size - cipherBlock);
    const keystream = this.#encrypt.update(before);
    const plain = before;
    sealed.copy(plain);
    xor(plain, keystream);
    free(keystream);
    if (sealed.length === size) sealed.copy(this.#last, 0, size - cipherBlock);
    return plain.subarray(0, sealed.length);
  }
}

/** @param target whole words at the beginning of its memory; altered @param source as long */
function xor(target: Buffer, source: Buffer): void {
  const aligned = source.byteOffset % 8 === 0 ? source : Buffer.from(new Uint8Array(source).buffer);
  const into = new BigUint64Array(target.buffer, target.byteOffset, target.length / 8);
  const from = new BigUint64Array(aligned.buffer, aligned.byteOffset, aligned.length / 8);
  for (let index = 0; index < into.length; index++) into[index] = (into[index] ?? 0n) ^ (from[index] ?? 0n);
}

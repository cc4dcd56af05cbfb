import { createCipheriv, createDecipheriv, type Decipheriv } from 'node:crypto';
import type { Secret } from '../secret.ts';

const size = 16;

/**
 * EME (ECB-mix-ECB) with AES-256: a cipher over 1 to 128 blocks of 16 bytes at once, in which every byte that comes out depends on
 * every byte that went in. Reading only. It hides and does not authenticate: altered bytes decrypt to other bytes.
 *
 * @see Halevi and Rogaway, A Parallelizable Enciphering Mode (2003), https://eprint.iacr.org/2003/147
 */
export class Eme {
  readonly #decipher: Decipheriv;
  /** `L`: twice the encryption of zero. */
  readonly #mask: Buffer;

  /** @param key 32 bytes */
  constructor(key: Secret) {
    this.#decipher = createDecipheriv('aes-256-ecb', key.bytes(), null).setAutoPadding(false);
    this.#mask = twice(createCipheriv('aes-256-ecb', key.bytes(), null).setAutoPadding(false).update(Buffer.alloc(size)));
  }

  /**
   * @param tweak 16 bytes
   * @param cipher 1 to 128 whole blocks
   * @returns as many bytes; undefined when the length is none of these
   */
  decrypt(tweak: Uint8Array, cipher: Uint8Array): Buffer | undefined {
    const blocks = cipher.length / size;
    if (!Number.isInteger(blocks) || blocks < 1 || blocks > 128 || tweak.length !== size) return undefined;
    const inner = this.#decipher.update(this.#masked(cipher));
    const mixed = Buffer.from(tweak);
    for (let i = 0; i < blocks; i++) xor(mixed, inner.subarray(i * size));
    const middle = this.#decipher.update(mixed);
    let mask = Buffer.from(mixed);
    xor(mask, middle);
    const first = inner.subarray(0, size);
    first.set(middle);
    xor(first, tweak);
    for (let i = 1; i < blocks; i++) {
      mask = twice(mask);
      const block = inner.subarray(i * size, (i + 1) * size);
      xor(block, mask);
      xor(first, block);
    }
    return this.#masked(this.#decipher.update(inner));
  }

  #masked(bytes: Uint8Array): Buffer {
    const result = Buffer.from(bytes);
    let mask = this.#mask;
    for (let at = 0; at < result.length; at += size) {
      xor(result.subarray(at), mask);
      mask = twice(mask);
    }
    return result;
  }
}

function xor(target: Uint8Array, mask: Uint8Array): void {
  for (let i = 0; i < size; i++) target[i] = (target[i] as number) ^ (mask[i] as number);
}

/** Times two in GF(2^128) with the polynomial x^128 + x^7 + x^2 + x + 1, the first byte the lowest. */
function twice(block: Buffer): Buffer<ArrayBuffer> {
  const result = Buffer.alloc(size);
  let carry = 0;
  for (let i = 0; i < size; i++) {
    const byte = block[i] as number;
    result[i] = (byte << 1) | carry;
    carry = byte >> 7;
  }
  if (carry === 1) result[0] = (result[0] as number) ^ 0x87;
  return result;
}

import { createCipheriv, createSecretKey, randomFillSync, type CipherGCMTypes, type KeyObject } from 'node:crypto';
import type { Client } from 'ssh2';
import { copyBytes } from '../seal/bytes.ts';

/** The part of the ssh2 package's insides that is looked at. */
interface Inside {
  _protocol?: { _cipher?: PackageCipher | GcmPackets; _decipher?: { _decipherKey?: unknown } };
}

/** How the package keeps what AES-GCM needs, without its optional native code. */
interface PackageCipher {
  outSeqno: number;
  _onWrite: (bytes: Buffer) => void;
  _encSSLName?: string;
  _encKey?: unknown;
  _encIV?: unknown;
  free(): void;
}

/**
 * Has a connection's packets encrypted with less effort. The ssh2 package takes the key in anew for each packet, asks the system for a
 * few random bytes, and takes new memory: together that costs more than the encryption. Where the package looks otherwise one day, or
 * another cipher was agreed upon, nothing happens.
 *
 * @param client one whose keys were agreed upon; new ones, after 64 GiB or when the site asks, go the slow way until the next call
 */
export function quickenPackets(client: Client): void {
  const { _protocol: protocol } = client as unknown as Inside;
  const { _cipher: cipher, _decipher: decipher } = protocol ?? {};
  if (protocol !== undefined && cipher !== undefined && !(cipher instanceof GcmPackets)) {
    const { _encSSLName: name, _encKey: key, _encIV: iv } = cipher;
    if (isGcm(name) && Buffer.isBuffer(key) && Buffer.isBuffer(iv) && iv.length === 12) {
      protocol._cipher = new GcmPackets(name, createSecretKey(key), iv, cipher.outSeqno, cipher._onWrite);
      // Two that count on from the same nonce must not both be used.
      cipher.free();
    }
  }
  if (decipher !== undefined && Buffer.isBuffer(decipher._decipherKey))
    decipher._decipherKey = createSecretKey(decipher._decipherKey);
}

function isGcm(name: string | undefined): name is CipherGCMTypes {
  return name === 'aes-128-gcm' || name === 'aes-256-gcm';
}

const lengthSize = 4;
const blockSize = 16;
const smallestPadding = 4;

/** More than any packet with content: OpenSSH takes 32 KiB of it at a time. */
const memorySize = 64 * 1024;
/**
 * Where a packet begins in it: content, fourteen bytes later, then lies elsewhere in a page than it mostly does where it comes from. The C
 * library copies slowly to where it lies in one just a few bytes later.
 */
const memoryStart = 1024;

/**
 * Packets under AES-GCM, with the methods that the ssh2 package calls: the length, which is authenticated; the encrypted rest; the tag.
 *
 * @see RFC 5647, section 7; RFC 4253, section 6
 */
class GcmPackets {
  /** Also set by the package: to 0, where both ends count anew with new keys. */
  outSeqno: number;
  readonly #algorithm: CipherGCMTypes;
  readonly #key: KeyObject;
  readonly #iv: Buffer;
  readonly #write: (bytes: Buffer) => void;
  readonly #padding = new Padding();
  /** For one packet at a time, from when it is made to when it is encrypted. */
  readonly #memory = Buffer.allocUnsafeSlow(memorySize).subarray(memoryStart);
  #inUse = false;
  #freed = false;

  constructor(algorithm: CipherGCMTypes, key: KeyObject, iv: Buffer, outSeqno: number, write: (bytes: Buffer) => void) {
    this.#algorithm = algorithm;
    this.#key = key;
    this.#iv = iv;
    this.outSeqno = outSeqno;
    this.#write = write;
  }

  /** A packet with all but its payload, which begins at its sixth byte. */
  allocPacket(payloadSize: number): Buffer {
    const unpadded = 1 + payloadSize;
    const padding = smallestPadding + ((2 * blockSize - smallestPadding - (unpadded % blockSize)) % blockSize);
    const packet = this.#take(lengthSize + unpadded + padding);
    packet.writeUInt32BE(unpadded + padding, 0);
    packet[lengthSize] = padding;
    this.#padding.fill(packet.subarray(lengthSize + unpadded));
    // By this method the package puts content there.
    const place = packet.subarray();
    packet.set = (bytes: Uint8Array, at = 0) => copyBytes(bytes, place, at);
    return packet;
  }

  /** Encrypts and writes a packet, whose memory is not to be used any more. */
  encrypt(packet: Buffer): void {
    if (this.#freed) return;
    const cipher = createCipheriv(this.#algorithm, this.#key, this.#iv);
    // What is written may be looked at later.
    const length = Buffer.from(packet.subarray(0, lengthSize));
    cipher.setAAD(length);
    this.#write(length);
    this.#write(cipher.update(packet.subarray(lengthSize)));
    cipher.final();
    this.#write(cipher.getAuthTag());
    this.#countOn();
    this.outSeqno = (this.outSeqno + 1) >>> 0;
    if (packet.buffer === this.#memory.buffer) this.#inUse = false;
  }

  free(): void {
    this.#freed = true;
  }

  #take(size: number): Buffer {
    if (this.#inUse || size > this.#memory.length) return Buffer.allocUnsafe(size);
    this.#inUse = true;
    return this.#memory.subarray(0, size);
  }

  /** The invocation counter: the last eight bytes of the nonce. */
  #countOn(): void {
    this.#iv.writeBigUInt64BE(BigInt.asUintN(64, this.#iv.readBigUInt64BE(4) + 1n), 4);
  }
}

/** Random bytes a few at a time, drawn many at a time. */
class Padding {
  readonly #bytes = Buffer.allocUnsafeSlow(8192);
  #used = this.#bytes.length;

  fill(target: Buffer): void {
    if (this.#used + target.length > this.#bytes.length) {
      randomFillSync(this.#bytes);
      this.#used = 0;
    }
    this.#used += this.#bytes.copy(target, 0, this.#used, this.#used + target.length);
  }
}

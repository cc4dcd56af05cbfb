/**
 * Packets of OpenPGP whose length is not known when they begin: in parts, each after its own length.
 *
 * @see RFC 9580, section 4.2.1.4
 */
import { copyBytes, free, inBlocks, type Bytes } from './bytes.ts';
import { definiteLength, packetType, partialLength, typeOctet } from './packets.ts';

/** Parts of 1 MiB. */
const partExponent = 20;
const partSize = 2 ** partExponent;

/** @see RFC 9580, section 4.2.1.4 */
const smallestFirstPart = 512;

/**
 * The stream as one literal packet, in parts each after its length. The first part has to hold the packet's own header; those
 * after it make up for that, so that from the second block on each whole block is one part, and none has to be copied.
 */
export async function* literalPacket(input: Bytes): AsyncGenerator<Buffer, void, undefined> {
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

/** Puts the body of a packet into parts of 1 MiB. Its type octet goes before them. */
export class PartWriter {
  readonly #allocate: (size: number) => Buffer;
  #part: Buffer;
  #used = 1;

  /**
   * @param beginning of the body, shorter than a part
   * @param allocate memory for a part, of 1 MiB and one octet; each is yielded once, and not touched afterwards
   */
  constructor(beginning: Uint8Array, allocate: (size: number) => Buffer) {
    this.#allocate = allocate;
    this.#part = this.#newPart();
    this.#part.set(beginning, this.#used);
    this.#used += beginning.length;
  }

  /** Takes bytes and frees them; yields the parts that became full. */
  *put(bytes: Buffer): Generator<Buffer, void, undefined> {
    for (let taken = 0; taken < bytes.length;) {
      const piece = bytes.subarray(taken, taken + this.#part.length - this.#used);
      copyBytes(piece, this.#part, this.#used);
      taken += piece.length;
      this.#used += piece.length;
      if (this.#used === this.#part.length) {
        yield this.#part;
        this.#part = this.#newPart();
        this.#used = 1;
      }
    }
    free(bytes);
  }

  /** The last part, which may be empty. */
  last(): Buffer {
    // In one piece, and not in place: whoever gave the memory may not expect a part that begins elsewhere.
    return Buffer.concat([definiteLength(this.#used - 1), this.#part.subarray(1, this.#used)]);
  }

  #newPart(): Buffer {
    const part = this.#allocate(1 + partSize);
    part[0] = partialLength(partExponent);
    return part;
  }
}

/**
 * OpenPGP packet framing: headers and lengths, with partial body lengths.
 *
 * @see RFC 9580, section 4.2
 */
import type { Bytes, ByteReader } from './bytes.ts';
import { corrupt, truncated } from './faults.ts';

/** Packet types that occur here. @see RFC 9580, section 5 */
export const packetType = {
  publicKeySessionKey: 1,
  passwordSessionKey: 3,
  compressed: 8,
  marker: 10,
  literal: 11,
  encrypted: 18,
  padding: 21,
} as const;

/** The beginning of a packet. */
export interface PacketHeader {
  type: number;
  /** Its own bytes. */
  raw: Buffer;
  /** Size of the body, or of its first part; Infinity where it is all that is left. */
  length: number;
  /** Whether `length` is that of a first part, after which another length follows. */
  partial: boolean;
}

/** The octet before the length of a packet. */
export function typeOctet(type: number): number {
  return 0xc0 | type;
}

/** A definite length in as few octets as it fits. */
export function definiteLength(length: number): Buffer {
  if (length < 192) return Buffer.of(length);
  if (length < 8384) return Buffer.of(((length - 192) >> 8) + 192, (length - 192) & 0xff);
  const octets = Buffer.alloc(5, 0xff);
  octets.writeUInt32BE(length, 1);
  return octets;
}

/** The octet that announces a part of 2^exponent bytes, after which more follows. */
export function partialLength(exponent: number): number {
  return 0xe0 | exponent;
}

/** Reads a packet's header, or undefined at the end of the stream. @throws HpcsError `integrity` */
export async function readPacketHeader(reader: ByteReader): Promise<PacketHeader | undefined> {
  const first = await reader.read(1);
  const octet = first[0];
  if (octet === undefined) return undefined;
  if ((octet & 0x80) === 0) throw corrupt('a packet begins with no packet type');
  if ((octet & 0x40) !== 0) {
    const { raw, length, partial } = await readLength(reader);
    return { type: octet & 0x3f, raw: Buffer.concat([first, raw]), length, partial };
  }
  // The legacy form. Without a length it takes all that is left, as GnuPG's compressed packets do.
  const size = [1, 2, 4][octet & 3];
  if (size === undefined) return { type: (octet >> 2) & 0xf, raw: first, length: Infinity, partial: false };
  const raw = await exactly(reader, size);
  return { type: (octet >> 2) & 0xf, raw: Buffer.concat([first, raw]), length: raw.readUIntBE(0, size), partial: false };
}

/** The body of the packet whose header was read, in pieces as they come. Must be read to its end before the next header. */
export async function* packetBody(reader: ByteReader, header: PacketHeader): Bytes & AsyncGenerator<Buffer, void, undefined> {
  let { length, partial } = header;
  for (;;) {
    while (length > 0) {
      const piece = await reader.some(length);
      if (piece === undefined && length === Infinity) return;
      if (piece === undefined) throw truncated();
      length -= piece.length;
      yield piece;
    }
    if (!partial) return;
    ({ length, partial } = await readLength(reader));
  }
}

async function readLength(reader: ByteReader): Promise<{ raw: Buffer; length: number; partial: boolean }> {
  const first = await exactly(reader, 1);
  const octet = first.readUInt8(0);
  if (octet < 192) return { raw: first, length: octet, partial: false };
  if (octet >= 224 && octet < 255) return { raw: first, length: 2 ** (octet & 0x1f), partial: true };
  const rest = await exactly(reader, octet === 255 ? 4 : 1);
  const length = octet === 255 ? rest.readUInt32BE(0) : ((octet - 192) << 8) + rest.readUInt8(0) + 192;
  return { raw: Buffer.concat([first, rest]), length, partial: false };
}

async function exactly(reader: ByteReader, size: number): Promise<Buffer> {
  const bytes = await reader.read(size);
  if (bytes.length < size) throw truncated();
  return bytes;
}

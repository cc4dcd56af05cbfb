/**
 * OpenPGP messages with authenticated encryption (SEIPD version 2), or with that which every GnuPG opens (version 1): session keys by
 * the openpgp package, bulk data by node:crypto, which is some hundred times faster in OCB mode.
 *
 * @see RFC 9580, sections 5.1, 5.9, 5.13.2 and 10.3
 */
import { randomBytes } from 'node:crypto';
import { createInflate, createInflateRaw } from 'node:zlib';
import { decryptSessionKeys, encryptSessionKey, readKey, readMessage, readPrivateKey, type PrivateKey } from 'openpgp';
import { HpcsError } from '../errors.ts';
import { blockSize, ByteReader, type Bytes } from './bytes.ts';
import { through } from './compress.ts';
import { corrupt, isCheckedAtEnd, notSecretKey, trailingData, truncated, unknownFormat, wrongKey } from './faults.ts';
import { packetBody, packetType, readPacketHeader } from './packets.ts';
import { openChunks } from './seipd.ts';
import { openSeipd1 } from './seipd1.ts';

/** Key packets take 100 bytes a recipient, or some kilobytes with large RSA keys. */
const longestKeyPackets = 256 * 1024;

/**
 * Begins an OpenPGP message: its key packets, and the session key (for AES-256) that is in them.
 *
 * @param recipients armored certificates
 * @param format of what follows: packets with a key for SEIPD version 2 are of version 6, with one for version 1 of version 3
 * @throws HpcsError `usage` for a recipient that is none
 */
export async function openpgpHeader(
  recipients: readonly string[],
  format: 'openpgp' | 'openpgp-gpg',
): Promise<{ header: Uint8Array; sessionKey: Buffer }> {
  const sessionKey = randomBytes(32);
  return { header: await makeKeyPackets(sessionKey, recipients, format), sessionKey };
}

/** How to open an OpenPGP message. */
export interface OpenpgpOptions {
  /** Also open what can be checked only at its end (SEIPD version 1). */
  checkedAtEnd?: boolean | undefined;
}

/**
 * Opens an OpenPGP message. Each piece that comes out has been authenticated, unless `checkedAtEnd` is set.
 *
 * @param armoredKeys unprotected secret keys
 * @throws HpcsError `integrity`
 */
export async function* openOpenpgp(
  reader: ByteReader,
  armoredKeys: readonly string[],
  options: OpenpgpOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const keys = await Promise.all(armoredKeys.map((armoredKey) => parseSecretKey(armoredKey)));
  const keyPackets: KeyPacket[] = [];
  for (let size = 0; ;) {
    const header = await readPacketHeader(reader);
    if (header === undefined) throw truncated();
    if (header.type === packetType.encrypted) {
      const body = packetBody(reader, header);
      yield* openEncrypted(body, (version) => findSessionKey(keyPackets, keys, version), options);
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

/** Versions of SEIPD packets. */
type SeipdVersion = 1 | 2;

/**
 * Opens the body of an SEIPD packet and yields what its literal packet holds.
 *
 * @param findKey finds the session key; asked only once the version is known to be one that is to be opened
 * @throws HpcsError `integrity`
 */
export async function* openEncrypted(
  body: Bytes,
  findKey: (version: SeipdVersion) => Promise<Uint8Array>,
  { checkedAtEnd = false }: OpenpgpOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const reader = new ByteReader(body);
  const version = (await reader.peek(1))[0];
  if (version === undefined) throw truncated();
  if (version === 2) yield* openPackets(openChunks(reader, () => findKey(version)));
  else if (version === 1 && checkedAtEnd)
    yield* openPackets(
      openSeipd1(reader, () => findKey(version)),
      true,
    );
  else if (version === 1) throw isCheckedAtEnd();
  else throw unknownFormat(`OpenPGP encryption (SEIPD) version ${version}`);
}

/**
 * What the literal packet among some packets holds.
 *
 * @param compressed whether it may lie in a compressed packet, as GnuPG does it
 */
async function* openPackets(plain: Bytes, compressed = false): AsyncGenerator<Uint8Array, void, undefined> {
  await using packets = new ByteReader(plain);
  let found = false;
  for (let header = await readPacketHeader(packets); header !== undefined; header = await readPacketHeader(packets)) {
    const content = packetBody(packets, header);
    if (header.type === packetType.literal && !found) {
      found = true;
      yield* literalContent(new ByteReader(content));
    } else if (header.type === packetType.compressed && compressed && !found) {
      found = true;
      yield* openPackets(inflated(new ByteReader(content)));
    } else if (header.type === packetType.padding || header.type === packetType.marker) {
      for await (const piece of content) void piece;
    } else {
      throw unknownFormat(`an OpenPGP message that holds a packet of type ${header.type}`);
    }
  }
  if (!found) throw corrupt('it holds no literal data');
}

async function makeKeyPackets(
  sessionKey: Uint8Array,
  recipients: readonly string[],
  format: 'openpgp' | 'openpgp-gpg',
): Promise<Uint8Array> {
  try {
    if (recipients.length === 0) throw new Error('no recipient');
    return await encryptSessionKey({
      data: sessionKey,
      algorithm: 'aes256',
      ...(format === 'openpgp' ? { aeadAlgorithm: 'ocb' } : {}),
      encryptionKeys: await Promise.all(recipients.map((armoredKey) => readKey({ armoredKey }))),
      // Whether a certificate is still valid was asked when it was given; a node's clock may be wrong besides.
      date: null as unknown as Date,
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
    throw notSecretKey(error);
  }
}

/** A public-key encrypted session key packet. */
interface KeyPacket {
  header: Buffer;
  body: Buffer;
}

async function findSessionKey(
  packets: readonly KeyPacket[],
  keys: readonly PrivateKey[],
  version: SeipdVersion,
): Promise<Uint8Array> {
  const own = keys.flatMap((key) => key.getKeys().map((part) => part.getFingerprint()));
  // Of the one version that belongs to the data's: else somebody could have one kind taken for the other.
  const belonging = packets.filter(({ body }) => body[0] === (version === 1 ? 3 : 6));
  const fitting = belonging.filter(({ body }) => addressee(body) === undefined || own.includes(addressee(body) ?? ''));
  if (fitting.length === 0) throw wrongKey();
  try {
    const binaryMessage = Buffer.concat(fitting.flatMap(({ header, body }) => [header, body]));
    const message = await readMessage({ binaryMessage });
    const [sessionKey] = await decryptSessionKeys({ message, decryptionKeys: [...keys] });
    if (sessionKey !== undefined && (version === 2 || sessionKey.algorithm?.startsWith('aes') === true)) return sessionKey.data;
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

async function* literalContent(reader: ByteReader): AsyncGenerator<Buffer, void, undefined> {
  const start = await reader.read(2);
  const rest = await reader.read((start[1] ?? 0) + 4);
  if (start.length < 2 || rest.length < (start[1] ?? 0) + 4) throw corrupt('its literal packet is too short');
  yield* reader.rest();
}

/** @see RFC 9580, sections 5.6 and 9.4 */
async function* inflated(content: ByteReader): AsyncGenerator<Uint8Array, void, undefined> {
  const algorithm = (await content.read(1))[0];
  if (algorithm === 0) yield* content.rest();
  else if (algorithm === 1) yield* through(content.rest(), createInflateRaw({ chunkSize: blockSize }));
  else if (algorithm === 2) yield* through(content.rest(), createInflate({ chunkSize: blockSize }));
  else throw unknownFormat(`OpenPGP compression ${algorithm ?? 'of no kind'}`);
}

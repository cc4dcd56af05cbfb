/**
 * OpenPGP messages with authenticated encryption (SEIPD version 2): session keys by the openpgp package, bulk data by
 * node:crypto, which is some hundred times faster in OCB mode.
 *
 * @see RFC 9580, sections 5.1, 5.9, 5.13.2 and 10.3
 */
import { randomBytes } from 'node:crypto';
import { decryptSessionKeys, encryptSessionKey, readKey, readMessage, readPrivateKey, type PrivateKey } from 'openpgp';
import { HpcsError } from '../errors.ts';
import { ByteReader, type Bytes } from './bytes.ts';
import { corrupt, trailingData, truncated, unknownFormat, wrongKey } from './faults.ts';
import { packetBody, packetType, readPacketHeader } from './packets.ts';
import { newMessageKey, openChunks, type MessageKey } from './seipd.ts';

/** Key packets take 100 bytes a recipient, or some kilobytes with large RSA keys. */
const longestKeyPackets = 256 * 1024;

/**
 * Begins an OpenPGP message: its key packets, and the key for what follows them.
 *
 * @param recipients armored certificates
 * @throws HpcsError `usage` for a recipient that is none
 */
export async function openpgpHeader(recipients: readonly string[]): Promise<{ header: Uint8Array; key: MessageKey }> {
  const sessionKey = randomBytes(32);
  const header = await makeKeyPackets(sessionKey, recipients);
  const key = newMessageKey(sessionKey);
  sessionKey.fill(0);
  return { header, key };
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

async function* literalContent(reader: ByteReader): AsyncGenerator<Buffer, void, undefined> {
  const start = await reader.read(2);
  const rest = await reader.read((start[1] ?? 0) + 4);
  if (start.length < 2 || rest.length < (start[1] ?? 0) + 4) throw corrupt('its literal packet is too short');
  yield* reader.rest();
}

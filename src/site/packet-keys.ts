import { createSecretKey } from 'node:crypto';
import type { Client } from 'ssh2';

/** The part of the ssh2 package's insides that is looked at. */
interface Inside {
  _protocol?: { _cipher?: { _encKey?: unknown }; _decipher?: { _decipherKey?: unknown } };
}

/**
 * Gives a connection's ciphers their keys in the form that node:crypto keeps. The ssh2 package hands the bytes over with every packet,
 * and taking them in anew costs nearly as much as the encryption. Where the package looks otherwise one day, nothing happens.
 *
 * @param client one whose keys were agreed upon; new ones, after 64 GiB or when the site asks, go the slow way until the next call
 */
export function keepPacketKeys(client: Client): void {
  const { _cipher: cipher, _decipher: decipher } = (client as unknown as Inside)._protocol ?? {};
  if (cipher !== undefined && Buffer.isBuffer(cipher._encKey)) cipher._encKey = createSecretKey(cipher._encKey);
  if (decipher !== undefined && Buffer.isBuffer(decipher._decipherKey))
    decipher._decipherKey = createSecretKey(decipher._decipherKey);
}

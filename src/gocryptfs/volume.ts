import { createDecipheriv, hkdfSync, scryptSync } from 'node:crypto';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { Secret } from '../secret.ts';
import { Eme } from './eme.ts';

/** The file at the root of a volume that holds its wrapped master key. */
export const configurationFile = 'gocryptfs.conf';

/** Nonces and authentication tags of AES-GCM as gocryptfs uses it (its flag GCMIV128), in bytes. */
export const nonceSize = 16;
export const tagSize = 16;

/** What `gocryptfs -init` sets by default, and all that is read here: each one says how something must be understood. */
const features = ['HKDF', 'GCMIV128', 'DirIV', 'EMENames', 'LongNames', 'Raw64'];

/** Memory that scrypt may take: four times that of gocryptfs's default, since the numbers come from the site. */
const scryptMemory = 256 * 1024 * 1024;

const bytes = z.base64().transform((text) => Buffer.from(text, 'base64'));
const positive = z.number().int().positive();
const schema = z.object({
  Version: z.number(),
  FeatureFlags: z.array(z.string()),
  EncryptedKey: bytes.refine((key) => key.length === nonceSize + 32 + tagSize),
  ScryptObject: z.object({ Salt: bytes, N: positive, R: positive, P: positive.max(16), KeyLen: z.literal(32) }),
});

/** The keys of an open volume. Disposing of them overwrites them. */
export class VolumeKeys implements Disposable {
  /** Key of file contents and link targets, AES-256-GCM. */
  readonly content: Secret;
  /** Cipher of file names. */
  readonly names: Eme;

  /** @param master the volume's master key, 32 bytes */
  constructor(master: Secret) {
    this.content = derive(master, 'AES-GCM file content encryption');
    using names = derive(master, 'EME filename encryption');
    this.names = new Eme(names);
  }

  [Symbol.dispose](): void {
    this.content[Symbol.dispose]();
  }
}

/**
 * Opens a volume: unwraps the master key with the password and derives the keys of contents and names.
 *
 * The configuration is not authenticated as a whole, so nothing in it may weaken how the volume is read: exactly the default
 * feature flags are taken.
 *
 * @param configuration content of the volume's `gocryptfs.conf`
 * @throws HpcsError `integrity`: `volume-invalid`, `volume-unsupported`, or `wrong-key` for another volume's password
 * @see https://nuetzlich.net/gocryptfs/forward_mode_crypto/ and RFC 7914, RFC 5869
 */
export function openVolume(configuration: string, password: Secret): VolumeKeys {
  const { Version, FeatureFlags, EncryptedKey, ScryptObject } = parse(configuration);
  const unknown = FeatureFlags.filter((flag) => !features.includes(flag));
  const missing = features.filter((flag) => !FeatureFlags.includes(flag));
  if (Version !== 2) throw unsupported(`format version ${Version}`);
  if (unknown.length > 0) throw unsupported(`the feature ${unknown.map((flag) => JSON.stringify(flag)).join(', ')}`);
  if (missing.length > 0) throw unsupported(`no ${missing.join(', ')}`);
  const { Salt, N, R, P } = ScryptObject;
  let hash: Buffer;
  try {
    hash = scryptSync(password.bytes(), Salt, 32, { N, r: R, p: P, maxmem: scryptMemory });
  } catch (error) {
    throw unsupported(`scrypt with N=${N}, r=${R}, p=${P}`, error);
  }
  using wrapping = new Secret(hash);
  hash.fill(0);
  using wrappingKey = derive(wrapping, 'AES-GCM file content encryption');
  const master = openBlock(wrappingKey, EncryptedKey, blockData(0));
  if (master === undefined) {
    throw new HpcsError('integrity', 'wrong-key', 'the encrypted volume cannot be opened with this key', {
      suggestion: 'the volume is not the one that this job made: do not use it',
    });
  }
  using secret = new Secret(master);
  master.fill(0);
  return new VolumeKeys(secret);
}

/**
 * Opens one block: nonce, ciphertext, tag.
 *
 * @param data additional data that the tag covers
 * @returns the plain bytes, or undefined when the block was not made with this key and data
 */
export function openBlock(key: Secret, block: Buffer, data: Uint8Array): Buffer | undefined {
  if (block.length <= nonceSize + tagSize) return undefined;
  const end = block.length - tagSize;
  const decipher = createDecipheriv('aes-256-gcm', key.bytes(), block.subarray(0, nonceSize), { authTagLength: tagSize });
  decipher.setAAD(data).setAuthTag(block.subarray(end));
  const plain = decipher.update(block.subarray(nonceSize, end));
  try {
    decipher.final();
    return plain;
  } catch {
    return undefined;
  }
}

/** The additional data of a block: its number, 64 bits big-endian, and the id of its file where it has one. */
export function blockData(index: number, fileId: Uint8Array = new Uint8Array()): Buffer {
  const data = Buffer.alloc(8 + fileId.length);
  data.writeBigUInt64BE(BigInt(index));
  data.set(fileId, 8);
  return data;
}

function parse(configuration: string): z.output<typeof schema> {
  let value: unknown;
  try {
    value = JSON.parse(configuration);
  } catch {
    // The same as any other form that is not known.
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const where = parsed.error.issues[0]?.path.join('.');
  throw new HpcsError(
    'integrity',
    'volume-invalid',
    `the encrypted volume's ${configurationFile} is not valid${where ? `: ${where}` : ''}`,
    {
      cause: parsed.error,
      suggestion: 'it was cut or altered on the site',
    },
  );
}

function unsupported(what: string, cause?: unknown): HpcsError {
  return new HpcsError(
    'integrity',
    'volume-unsupported',
    `the encrypted volume is of a kind that jobs of ours do not make: ${what}`,
    {
      cause,
      suggestion: `its ${configurationFile} was altered on the site, or the volume is not a job's; mount it with gocryptfs if you trust it`,
    },
  );
}

function derive(key: Secret, purpose: string): Secret {
  return new Secret(new Uint8Array(hkdfSync('sha256', key.bytes(), '', purpose, 32)));
}

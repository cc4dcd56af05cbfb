import { createHash } from 'node:crypto';
import { HpcsError } from '../errors.ts';
import { blockData, openBlock, type VolumeKeys } from './volume.ts';

/** The file in every directory that holds the 16 bytes which make equal names differ between directories. */
export const directoryIvFile = 'gocryptfs.diriv';
export const directoryIvSize = 16;

const longName = /^gocryptfs\.longname\.([A-Za-z0-9_-]{43})(\.name)?$/;

/** What an entry of a volume's directory is, by its name alone. */
export type EntryName =
  /** The encrypted name itself. */
  | { kind: 'name' }
  /** A name too long for the file system, which stands in the file `nameFile` beside it. */
  | { kind: 'long-name'; nameFile: string }
  /** Such a file. */
  | { kind: 'name-file' }
  /** The volume's own: its configuration, an IV, or one of a directory that was being removed. */
  | { kind: 'own' };

/** @see https://nuetzlich.net/gocryptfs/forward_mode_crypto/, "Long File Name Handling" */
export function classifyName(name: string): EntryName {
  const long = longName.exec(name);
  if (long !== null) return long[2] === undefined ? { kind: 'long-name', nameFile: `${name}.name` } : { kind: 'name-file' };
  // A dot is not of the alphabet that encrypted names are written in.
  return name.includes('.') ? { kind: 'own' } : { kind: 'name' };
}

/**
 * The encrypted name that a `.name` file holds.
 *
 * @param nameFile name of the file: it carries the SHA-256 of what the file holds
 * @throws HpcsError `integrity` when they do not fit
 */
export function longNameOf(nameFile: string, content: Uint8Array): string {
  const name = Buffer.from(content).toString('latin1');
  const digest = createHash('sha256').update(content).digest('base64url');
  if (longName.exec(nameFile)?.[1] !== digest) throw unreadable(nameFile);
  return name;
}

/**
 * Decrypts the name of one directory entry. Names are hidden but not authenticated: a name that was altered is most often
 * refused, and else is another name.
 *
 * @param iv content of the directory's `gocryptfs.diriv`
 * @param name as it stands on disk; for a long name, what its `.name` file holds
 * @returns the bytes of the name: never empty, `.` or `..`, and without `/` and NUL
 * @throws HpcsError `integrity` `name-unreadable` when it is not a name of this directory
 */
export function decryptName(keys: VolumeKeys, iv: Uint8Array, name: string): Buffer {
  const cipher = decode(name);
  const padded = cipher === undefined ? undefined : keys.names.decrypt(iv, cipher);
  const plain = padded === undefined ? undefined : unpad(padded);
  if (
    plain === undefined ||
    plain.length > 255 ||
    plain.includes(0) ||
    plain.includes('/') ||
    /^\.{0,2}$/.test(plain.toString('latin1'))
  )
    throw unreadable(name);
  return plain;
}

/**
 * Decrypts the target of a symbolic link.
 *
 * @throws HpcsError `integrity` `link-unreadable` when it was not made with the volume's key
 */
export function decryptLink(keys: VolumeKeys, target: string): Buffer {
  const plain = openBlock(keys.content, decode(target) ?? Buffer.alloc(0), blockData(0));
  if (plain !== undefined && !plain.includes(0)) return plain;
  throw new HpcsError(
    'integrity',
    'link-unreadable',
    `the target ${JSON.stringify(shorten(target))} of a link in the encrypted volume was altered`,
  );
}

/** Base64 as RFC 4648, section 5, without padding. Node's decoder skips what it does not know, hence the comparison. */
function decode(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, 'base64url');
  return bytes.toString('base64url') === text ? bytes : undefined;
}

/** @see RFC 5652, 6.3 (PKCS #7 padding), here to 16 bytes */
function unpad(bytes: Buffer): Buffer | undefined {
  const count = bytes.at(-1) ?? 0;
  if (count < 1 || count > 16 || count > bytes.length) return undefined;
  const end = bytes.length - count;
  return bytes.subarray(end).every((byte) => byte === count) ? bytes.subarray(0, end) : undefined;
}

function unreadable(name: string): HpcsError {
  return new HpcsError(
    'integrity',
    'name-unreadable',
    `the name ${JSON.stringify(shorten(name))} in the encrypted volume is not one of its directory`,
  );
}

function shorten(text: string): string {
  return text.length <= 60 ? text : `${text.slice(0, 57)}…`;
}

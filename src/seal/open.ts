import { HpcsError } from '../errors.ts';
import { Secret } from '../secret.ts';
import { tuneForStreams } from '../streaming.ts';
import { ByteReader, type Bytes } from './bytes.ts';
import { decompressed } from './compress.ts';
import { truncated, unknownFormat, wrongKey } from './faults.ts';
import { packetType, typeOctet } from './packets.ts';
import { ageMagic } from './stream.ts';

/** How to open. */
export interface OpenOptions {
  /** Ends the stream with its reason. */
  signal?: AbortSignal | undefined;
  /** Expand what was compressed (zstd, gzip) before it was sealed. Default true. */
  decompress?: boolean | undefined;
  /**
   * Also open what can be checked only at its end (`openpgp-gpg`). Set it only where nothing of what comes out is used, or shown to
   * others, before the iteration has ended without an error. Default false: refused with `checked-at-end`.
   */
  checkedAtEnd?: boolean | undefined;
}

/**
 * Opens sealed data of any format, told by its first bytes, in constant memory.
 *
 * Each piece that comes out has been authenticated, unless `checkedAtEnd` is set; but only the end of the iteration says that the
 * data was whole. What came before an error is to be thrown away.
 *
 * @param keys `AGE-SECRET-KEY-1…` lines or armored OpenPGP secret keys; any one that fits will do
 * @throws HpcsError `integrity` (from the iterator): `wrong-key`, `corrupt`, `truncated`, `trailing-data`, `unknown-format`
 */
export async function* open(
  input: Bytes,
  keys: Secret | readonly Secret[],
  options: OpenOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  tuneForStreams();
  const texts = (keys instanceof Secret ? [keys] : keys).map((key) => key.reveal());
  await using reader = new ByteReader(abortable(input, options.signal));
  const plain = (await isAge(reader)) ? openedAge(reader, texts) : openedOpenpgp(reader, texts, options);
  yield* options.decompress === false ? plain : decompressed(plain);
}

/**
 * Opens sealed data that can be read twice. What can be checked only at its end is first read to its end: so each piece that comes out
 * has been authenticated, in every format.
 *
 * @param read begins to read the data, each time from its first byte
 * @throws HpcsError as {@link open} does
 */
export async function* openTwice(
  read: () => Bytes,
  keys: Secret | readonly Secret[],
  options: OpenOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    yield* open(read(), keys, options);
    return;
  } catch (error) {
    if (!(error instanceof HpcsError) || error.code !== 'checked-at-end') throw error;
  }
  const late = { ...options, checkedAtEnd: true };
  for await (const _piece of open(read(), keys, { ...late, decompress: false }));
  yield* open(read(), keys, late);
}

// The packages behind the formats take some 25 MiB each: only the one that is needed is loaded.
async function* openedAge(reader: ByteReader, texts: readonly string[]): AsyncGenerator<Uint8Array, void, undefined> {
  const { openAge } = await import('./age.ts');
  yield* openAge(reader, ageKeys(texts));
}

async function* openedOpenpgp(
  reader: ByteReader,
  texts: readonly string[],
  options: OpenOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { openOpenpgp } = await import('./openpgp.ts');
  yield* openOpenpgp(reader, openpgpKeys(texts), options);
}

async function isAge(reader: ByteReader): Promise<boolean> {
  const beginning = (await reader.peek(ageMagic.length)).toString('latin1');
  if (ageMagic.startsWith(beginning.slice(0, 'age-'.length))) {
    if (beginning.length < ageMagic.length) throw truncated();
    if (beginning.startsWith('age-encryption.org/')) return true;
  }
  if (beginning.startsWith('-----BEGIN ')) throw unknownFormat('it is armored, that is, wrapped in text');
  const first = beginning.charCodeAt(0);
  const session = [packetType.publicKeySessionKey, packetType.passwordSessionKey, packetType.marker, packetType.padding];
  // Of a type's legacy octets those with a length (0x84 to 0x86 for public keys, 0x8c to 0x8e for passwords).
  if (session.some((type) => first === typeOctet(type) || (first & 0xfc) === (0x80 | (type << 2)))) return false;
  if (first === typeOctet(packetType.encrypted)) throw wrongKey();
  throw unknownFormat('its first bytes are neither those of age nor of an OpenPGP message');
}

function ageKeys(texts: readonly string[]): string[] {
  const keys = texts.flatMap((text) => text.match(/AGE-SECRET-KEY-(?:PQ-)?1[0-9A-Z]+/g) ?? []);
  checkSome(texts, keys);
  return keys;
}

function openpgpKeys(texts: readonly string[]): string[] {
  const keys = texts.filter((text) => text.includes('-----BEGIN PGP PRIVATE KEY BLOCK-----'));
  checkSome(texts, keys);
  return keys;
}

// A key of the other format is a wrong key; what is no key at all is a mistake in calling.
function checkSome(texts: readonly string[], fitting: readonly string[]): void {
  if (fitting.length > 0) return;
  if (texts.some((text) => /AGE-SECRET-KEY-|BEGIN PGP PRIVATE KEY/.test(text))) throw wrongKey();
  throw new HpcsError('usage', 'key-invalid', 'what was given as the key is neither an age nor an OpenPGP secret key', {
    suggestion: 'give the text that begins with AGE-SECRET-KEY-1 or -----BEGIN PGP PRIVATE KEY BLOCK-----',
  });
}

async function* abortable(input: Bytes, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array, void, undefined> {
  signal?.throwIfAborted();
  for await (const piece of input) {
    signal?.throwIfAborted();
    yield piece;
  }
}

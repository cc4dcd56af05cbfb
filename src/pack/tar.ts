/**
 * Tar archives, read and written as streams: ustar headers, pax records where those do not suffice.
 *
 * @see POSIX.1-2024, pax, "ustar Interchange Format" and "pax Interchange Format"
 */
import { HpcsError } from '../errors.ts';
import { ByteReader, type Bytes } from '../seal/bytes.ts';
import { bytesOf, nameOf } from './name.ts';

/** Unit of the format: headers are one block, contents are padded to whole ones. */
export const tarBlock = 512;

/** The end of an archive: two blocks of zeros. */
export const tarEnd: Uint8Array = new Uint8Array(2 * tarBlock);

/** Kinds of entries; `other` is one whose letter says nothing to us. */
export type TarType = 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo' | 'other';

/** One entry of an archive, without its content. */
export interface TarEntry {
  /** Path in the archive; that of a directory may end in `/`. */
  name: string;
  /** Default `file`. */
  type?: TarType;
  /** Permission bits, with those of set-id and sticky. Default 0644, or 0755 for a directory. */
  mode?: number;
  uid?: number;
  gid?: number;
  uname?: string;
  gname?: string;
  /** Bytes of content. */
  size?: number;
  /** Seconds since 1970, perhaps with a fraction. */
  mtime?: number;
  /** Target of a link. */
  linkname?: string;
  devmajor?: number;
  devminor?: number;
  /** pax records beside those that the other fields stand for, such as `SCHILY.xattr.*`. Values are any bytes. */
  pax?: ReadonlyMap<string, Uint8Array>;
}

/** An entry as it was read. */
export interface ReadTarEntry extends Required<TarEntry> {
  /** The content. To be read, if at all, before the next entry is asked for. */
  readonly body: Bytes;
}

/** An entry with its content, for {@link tarOf}. */
export interface SmallTarEntry extends Omit<TarEntry, 'size'> {
  content?: Uint8Array | string;
}

const letters: Readonly<Record<Exclude<TarType, 'other'>, string>> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  character: '3',
  block: '4',
  directory: '5',
  fifo: '6',
};
// The oldest archives have NUL for a file; "contiguous" files are files.
const types = new Map<string, TarType>([
  ...Object.entries(letters).map(([type, letter]): [string, TarType] => [letter, type as TarType]),
  ['\0', 'file'],
  ['7', 'file'],
]);

const nameSize = 100;
const prefixSize = 155;
const largestOctal7 = 0o7777777;
const largestOctal11 = 0o77777777777;

/** Longest pax header or GNU long name that is believed. */
const longestRecord = 4 * 1024 * 1024;
/** Bytes of all records before one entry, or of all global ones, that are believed. */
const longestRecords = 2 * longestRecord;
/** What a record takes in memory beside its bytes, about. */
const recordOverhead = 128;

/** pax records that {@link TarEntry} has fields for. */
const fieldRecords = new Set(['path', 'linkpath', 'size', 'uid', 'gid', 'uname', 'gname', 'mtime']);

/** Whether an entry's header is one block for sure; told at once, where making it would take some microseconds. */
export function fitsOneBlock({ name, size = 0, uid = 0, gid = 0, mtime = 0, ...rest }: TarEntry): boolean {
  if (rest.pax !== undefined || rest.linkname !== undefined || rest.uname !== undefined || rest.gname !== undefined) return false;
  // Of a directory a slash follows the name.
  if (name.length >= nameSize || !/^[\x20-\x7e]*$/.test(name)) return false;
  const numbers = uid <= largestOctal7 && gid <= largestOctal7 && size <= largestOctal11;
  return numbers && mtime >= 0 && mtime <= largestOctal11 && Number.isInteger(mtime);
}

/** The blocks before an entry's content: a header, and a pax header before it where the fields of ustar do not suffice. */
export function tarHeader(entry: TarEntry): Buffer {
  const { type = 'file', size = 0, uid = 0, gid = 0, mtime = 0, uname = '', gname = '', linkname = '' } = entry;
  if (type === 'other') throw new RangeError(`an entry of an unknown type cannot be written: ${entry.name}`);
  const name = bytesOf(type === 'directory' && !entry.name.endsWith('/') ? `${entry.name}/` : entry.name);
  const link = bytesOf(linkname);
  const records = new Map<string, Uint8Array>(entry.pax);
  const cut = isAscii(name) ? prefixCut(name) : undefined;
  if (cut === undefined) records.set('path', name);
  if (link.length > nameSize || !isAscii(link)) records.set('linkpath', link);
  if (size > largestOctal11) records.set('size', Buffer.from(String(size)));
  if (uid > largestOctal7) records.set('uid', Buffer.from(String(uid)));
  if (gid > largestOctal7) records.set('gid', Buffer.from(String(gid)));
  if (mtime < 0 || mtime > largestOctal11 || !Number.isInteger(mtime)) records.set('mtime', Buffer.from(decimal(mtime)));
  for (const [key, text] of [
    ['uname', uname],
    ['gname', gname],
  ] as const) {
    const bytes = Buffer.from(text);
    if (bytes.length > 31 || !isAscii(bytes)) records.set(key, bytes);
  }

  const header = Buffer.alloc(tarBlock);
  name.copy(header, 0, cut ?? 0, (cut ?? 0) + nameSize);
  // The slash at the cut stands in neither field.
  if (cut !== undefined && cut > 0) name.copy(header, 345, 0, cut - 1);
  octal(header, 100, 8, (entry.mode ?? (type === 'directory' ? 0o755 : 0o644)) & 0o7777);
  octal(header, 108, 8, uid > largestOctal7 ? 0 : uid);
  octal(header, 116, 8, gid > largestOctal7 ? 0 : gid);
  octal(header, 124, 12, size > largestOctal11 ? 0 : size);
  octal(header, 136, 12, Math.min(Math.max(Math.floor(mtime), 0), largestOctal11));
  header.write(letters[type], 156, 'latin1');
  link.copy(header, 157, 0, nameSize);
  header.write('ustar\x0000', 257, 'latin1');
  if (!records.has('uname')) header.write(uname, 265, 'latin1');
  if (!records.has('gname')) header.write(gname, 297, 'latin1');
  if (type === 'character' || type === 'block') {
    octal(header, 329, 8, entry.devmajor ?? 0);
    octal(header, 337, 8, entry.devminor ?? 0);
  }
  octal(header, 148, 7, checksum(header));
  header[155] = 0x20;
  if (records.size === 0) return header;
  return Buffer.concat([paxHeader(records), header]);
}

/** How many bytes of zeros follow a content of this size. */
export function tarPadding(size: number): number {
  return (tarBlock - (size % tarBlock)) % tarBlock;
}

/** A whole archive, made in memory: for small ones, such as build contexts. */
export function tarOf(entries: readonly SmallTarEntry[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const { content = '', ...entry } of entries) {
    const bytes = typeof content === 'string' ? Buffer.from(content) : content;
    parts.push(tarHeader({ ...entry, size: bytes.length }), bytes, new Uint8Array(tarPadding(bytes.length)));
  }
  return Buffer.concat([...parts, tarEnd]);
}

/** Whether a stream that begins so is an archive: its first block is a header with a right checksum, or the end mark. */
export function isTar(beginning: Buffer): boolean {
  const header = beginning.subarray(0, tarBlock);
  if (header.length < tarBlock) return false;
  if (header.every((byte) => byte === 0)) return true;
  const digits = /^ *([0-7]{1,7})[ \0]*$/.exec(header.toString('latin1', 148, 156));
  return digits !== null && Number.parseInt(digits[1] ?? '', 8) === checksum(header);
}

/**
 * Reads an archive's entries one by one, and the stream to its end.
 *
 * @throws HpcsError `integrity` `archive-invalid` for what is no archive, is damaged or ends early
 */
export async function* readTar(input: Bytes): AsyncGenerator<ReadTarEntry, void, undefined> {
  await using reader = new ByteReader(input);
  const globals = new Records();
  let before = new Records();
  for (;;) {
    const header = await reader.read(tarBlock);
    if (header.length < tarBlock) throw invalid('it ends without its end mark');
    if (header.every((byte) => byte === 0)) break;
    if (readNumber(header, 148, 8) !== checksum(header)) throw invalid('a header has a wrong checksum');
    const letter = header.toString('latin1', 156, 157);
    if ('xgLK'.includes(letter)) {
      const content = await readRecordBody(reader, readNumber(header, 124, 12));
      if (letter === 'x') for (const [key, value] of paxRecords(content)) before.set(key, value);
      else if (letter === 'g') for (const [key, value] of paxRecords(content)) globals.set(key, value);
      else before.set(letter === 'L' ? 'path' : 'linkpath', untilNul(content));
      continue;
    }
    const entry = describe(header, letter, new Map([...globals.values, ...before.values]));
    const content = new Content(reader, entry.size);
    yield { ...entry, body: content.pieces() };
    await content.skip();
    before = new Records();
  }
  // Writers pad archives to whole records of 20 blocks; and what decrypts the stream must see its end.
  while ((await reader.some(Infinity)) !== undefined);
}

/** pax records that stay in memory until the entry they belong to comes, or for all entries: no archive can make them many. */
class Records {
  readonly values = new Map<string, Buffer>();
  #size = 0;

  set(key: string, value: Buffer): void {
    const old = this.values.get(key);
    this.#size += value.length - (old?.length ?? -(key.length + recordOverhead));
    if (this.#size > longestRecords) throw invalid('the records of an entry are too long');
    // Copied: the header that a value stands in may be a thousand times as long.
    this.values.set(key, Buffer.from(value));
  }
}

/** What is left of an entry's content in the stream. */
class Content {
  readonly #reader: ByteReader;
  #left: number;
  readonly #padding: number;

  constructor(reader: ByteReader, size: number) {
    this.#reader = reader;
    this.#left = size;
    this.#padding = tarPadding(size);
  }

  async *pieces(): AsyncGenerator<Buffer, void, undefined> {
    while (this.#left > 0) {
      const piece = await this.#reader.some(this.#left);
      if (piece === undefined) throw invalid('it ends within an entry');
      this.#left -= piece.length;
      yield piece;
    }
  }

  async skip(): Promise<void> {
    for await (const piece of this.pieces()) void piece;
    if ((await this.#reader.read(this.#padding)).length < this.#padding) throw invalid('it ends within an entry');
  }
}

function describe(header: Buffer, letter: string, records: ReadonlyMap<string, Buffer>): Omit<ReadTarEntry, 'body'> {
  // GNU's own kind of header has other things where ustar has the prefix.
  const ustar = header.toString('latin1', 257, 263) === 'ustar\0';
  const prefix = ustar ? readName(header, 345, prefixSize) : '';
  const short = readName(header, 0, nameSize);
  const text = (key: string): string | undefined => {
    const value = records.get(key);
    return value === undefined ? undefined : nameOf(value);
  };
  const number = (key: string): number | undefined => {
    const value = records.get(key)?.toString('latin1');
    if (value === undefined) return undefined;
    if (!/^-?\d+(\.\d*)?$/.test(value)) throw invalid(`a pax record ${key} is no number`);
    return Number(value);
  };
  const name = text('path') ?? (prefix === '' ? short : `${prefix}/${short}`);
  if ([...records.keys()].some((key) => key.startsWith('GNU.sparse.')) || letter === 'S')
    throw invalid(`the file ${JSON.stringify(name)} is stored as sparse, which is not supported`);
  let type = types.get(letter) ?? 'other';
  // Before ustar a directory was a file with a slash.
  if (type === 'file' && name.endsWith('/')) type = 'directory';
  const hasContent = type === 'file' || type === 'other';
  const size = number('size') ?? readNumber(header, 124, 12);
  if (!Number.isSafeInteger(size) || size < 0) throw invalid(`the file ${JSON.stringify(name)} has an impossible size`);
  return {
    name,
    type,
    mode: readNumber(header, 100, 8) & 0o7777,
    uid: number('uid') ?? readNumber(header, 108, 8),
    gid: number('gid') ?? readNumber(header, 116, 8),
    uname: text('uname') ?? readName(header, 265, 32),
    gname: text('gname') ?? readName(header, 297, 32),
    size: hasContent ? size : 0,
    mtime: number('mtime') ?? readNumber(header, 136, 12),
    linkname: text('linkpath') ?? readName(header, 157, nameSize),
    devmajor: ustar ? readNumber(header, 329, 8) : 0,
    devminor: ustar ? readNumber(header, 337, 8) : 0,
    pax: new Map([...records].filter(([key]) => !fieldRecords.has(key))),
  };
}

async function readRecordBody(reader: ByteReader, size: number): Promise<Buffer> {
  if (size > longestRecord) throw invalid('a header is too long');
  const padded = await reader.read(size + tarPadding(size));
  if (padded.length < size + tarPadding(size)) throw invalid('it ends within a header');
  return padded.subarray(0, size);
}

/** `LENGTH KEY=VALUE\n` each, the length in decimal and that of the whole record. */
function* paxRecords(content: Buffer): Generator<[string, Buffer], void, undefined> {
  for (let start = 0; start < content.length;) {
    const space = content.indexOf(0x20, start);
    const digits = content.toString('latin1', start, Math.max(space, start));
    const end = start + Number(digits);
    const equals = content.indexOf(0x3d, space);
    if (!/^\d{1,8}$/.test(digits) || end > content.length || equals < 0 || equals >= end || content[end - 1] !== 0x0a)
      throw invalid('a pax record is not valid');
    yield [content.toString('utf8', space + 1, equals), content.subarray(equals + 1, end - 1)];
    start = end;
  }
}

function paxHeader(records: ReadonlyMap<string, Uint8Array>): Buffer {
  const content = Buffer.concat([...records].map(([key, value]) => paxRecord(key, value)));
  const header = Buffer.alloc(tarBlock);
  header.write('PaxHeaders/entry', 0, 'latin1');
  octal(header, 100, 8, 0o644);
  octal(header, 108, 8, 0);
  octal(header, 116, 8, 0);
  octal(header, 124, 12, content.length);
  octal(header, 136, 12, 0);
  header.write('x', 156, 'latin1');
  header.write('ustar\x0000', 257, 'latin1');
  octal(header, 148, 7, checksum(header));
  header[155] = 0x20;
  return Buffer.concat([header, content, Buffer.alloc(tarPadding(content.length))]);
}

function paxRecord(key: string, value: Uint8Array): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')]);
  // The length counts its own digits.
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** Where the second field of a name begins: 0 for a name that fits into one, undefined for one that fits into no two. */
function prefixCut(name: Buffer): number | undefined {
  if (name.length <= nameSize) return 0;
  const slash = name.indexOf(0x2f, name.length - nameSize - 1);
  return slash > 0 && slash <= prefixSize && slash + 1 < name.length ? slash + 1 : undefined;
}

function octal(header: Buffer, start: number, width: number, value: number): void {
  let rest = value;
  for (let at = start + width - 2; at >= start; at--) {
    header[at] = 0x30 + (rest % 8);
    rest = Math.floor(rest / 8);
  }
}

/** Octal digits; or, where GNU tar found them too few, base 256 with the first bit set. */
function readNumber(header: Buffer, start: number, width: number): number {
  const first = header.readUInt8(start);
  if ((first & 0x80) !== 0) {
    const digits = Buffer.from(header.subarray(start, start + width));
    digits[0] = (first & 0x40) === 0 ? first & 0x7f : first;
    const value = BigInt.asIntN(width * 8, BigInt(`0x${digits.toString('hex')}`));
    if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < 0n) return first === 0xff ? Number(value) : NaN;
    return Number(value);
  }
  const digits = untilNul(header.subarray(start, start + width))
    .toString('latin1')
    .trim();
  if (!/^[0-7]*$/.test(digits)) throw invalid('a header holds no number where one belongs');
  return digits === '' ? 0 : Number.parseInt(digits, 8);
}

function readName(header: Buffer, start: number, width: number): string {
  return nameOf(untilNul(header.subarray(start, start + width)));
}

function untilNul(bytes: Buffer): Buffer {
  const end = bytes.indexOf(0);
  return end < 0 ? bytes : bytes.subarray(0, end);
}

/** Sum of a header's bytes, those of the checksum itself taken for spaces. */
function checksum(header: Buffer): number {
  let sum = 8 * 0x20;
  for (let index = 0; index < 148; index++) sum += header[index] ?? 0;
  for (let index = 156; index < tarBlock; index++) sum += header[index] ?? 0;
  return sum;
}

function isAscii(bytes: Buffer): boolean {
  for (let index = 0; index < bytes.length; index++) if ((bytes[index] ?? 0) >= 0x80) return false;
  return true;
}

function decimal(seconds: number): string {
  return Number.isInteger(seconds) ? String(seconds) : seconds.toFixed(6);
}

function invalid(what: string): HpcsError {
  return new HpcsError('integrity', 'archive-invalid', `the archive is not valid: ${what}`, {
    suggestion: 'get it again from where it was made; if it stays so, have it made anew',
  });
}

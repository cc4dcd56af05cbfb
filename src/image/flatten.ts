import { HpcsError } from '../errors.ts';

/** Kinds of entries. @see POSIX.1-2024, pax, ustar Interchange Format, typeflag */
export type EntryType = 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo' | 'other';

/** What is known of an entry before its content has come. */
export interface FlatEntry {
  /** Without a leading `/` or `./` and without a final `/`; empty for the root itself. */
  readonly path: string;
  readonly type: EntryType;
  /** Target of a link: of a hard link in the form of `path`, of a symbolic one verbatim. */
  readonly target: string;
  /** Bytes of content that follow. */
  readonly size: number;
}

/** Longest record before an entry (pax, GNU names) that is believed. */
const longestRecord = 4 * 1024 * 1024;

/** Small pieces are gathered to about this many bytes, so that the engine's socket is not fed header by header. */
const batchSize = 64 * 1024;

const types: Readonly<Record<string, EntryType>> = {
  '\0': 'file',
  '0': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
  '7': 'file',
};

/**
 * Passes a tar stream on, leaving entries out and adding some at its end. What is kept is not touched: its bytes, with every
 * pax record, go through as they came.
 *
 * @param keep asked once for each entry, in order
 * @param append what to add, asked when all entries have been seen: whole entries, without an end of archive
 * @throws HpcsError `local` for what is no tar stream, or ends early
 */
export async function* rewriteTar(
  source: AsyncIterable<Uint8Array>,
  keep: (entry: FlatEntry) => boolean,
  append: () => Iterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  yield* batched(rewritten(source, keep, append));
}

async function* rewritten(
  source: AsyncIterable<Uint8Array>,
  keep: (entry: FlatEntry) => boolean,
  append: () => Iterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  await using bytes = new ByteSource(source);
  let records = new Map<string, string>();
  /** Headers and records that wait for the entry they belong to. */
  let held: Uint8Array[] = [];
  for (;;) {
    const header = await bytes.take(512);
    if (header === undefined) throw damaged('it ends without its end mark');
    if (header.every((byte) => byte === 0)) break;
    checkHeader(header);
    const letter = String.fromCharCode(header[156] ?? 0);
    const stated = number(header, 124, 12);
    if ('xgLK'.includes(letter)) {
      if (stated > longestRecord) throw damaged('a record is too long');
      const record = await bytes.take(padded(stated));
      if (record === undefined) throw damaged('it ends within a record');
      held.push(header, record);
      records = new Map([...records, ...readRecord(letter, record.subarray(0, stated))]);
      continue;
    }
    const entry = describe(header, letter, records);
    const kept = keep(entry);
    if (kept) yield* held;
    if (kept) yield header;
    for await (const piece of bytes.pieces(padded(entry.size))) if (kept) yield piece;
    records = new Map();
    held = [];
  }
  // Some writers pad the archive to a whole record of 20 blocks.
  await bytes.drain();
  yield* append();
  yield Buffer.alloc(1024);
}

function describe(header: Buffer, letter: string, records: ReadonlyMap<string, string>): FlatEntry {
  const prefix = header.toString('latin1', 257, 263) === 'ustar\0' ? text(header, 345, 155) : '';
  const name = text(header, 0, 100);
  const type = types[letter] ?? 'other';
  const target = records.get('linkpath') ?? text(header, 157, 100);
  return {
    path: clean(records.get('path') ?? (prefix === '' ? name : `${prefix}/${name}`)),
    type,
    target: type === 'hardlink' ? clean(target) : target,
    // Links, directories, devices and FIFOs have no content, whatever their size says.
    size: type === 'file' || type === 'other' ? Number(records.get('size') ?? number(header, 124, 12)) : 0,
  };
}

/** @see POSIX.1-2024, pax Extended Header: `LENGTH KEY=VALUE\n`, the length in decimal and of the whole record */
function* readRecord(letter: string, record: Buffer): Generator<[string, string]> {
  if (letter === 'L' || letter === 'K') {
    yield [letter === 'L' ? 'path' : 'linkpath', text(record, 0, record.length)];
    return;
  }
  if (letter !== 'x') return;
  for (let at = 0; at < record.length;) {
    const space = record.indexOf(0x20, at);
    const length = Number(record.toString('latin1', at, space));
    const equals = record.indexOf(0x3d, space);
    if (space < 0 || equals < 0 || !(length > 0) || at + length > record.length) throw damaged('a pax record is not valid');
    const key = record.toString('utf8', space + 1, equals);
    if (key === 'path' || key === 'linkpath' || key === 'size') yield [key, record.toString('utf8', equals + 1, at + length - 1)];
    at += length;
  }
}

function checkHeader(header: Buffer): void {
  let sum = 8 * 0x20;
  for (const [index, byte] of header.entries()) if (index < 148 || index >= 156) sum += byte;
  if (sum !== number(header, 148, 8)) throw damaged('a header has a wrong checksum');
}

/** Octal, or base 256 where the first bit is set (GNU). */
function number(header: Buffer, at: number, width: number): number {
  if ((header[at] ?? 0) & 0x80) return Number(header.readBigUInt64BE(at + width - 8));
  const digits = text(header, at, width).trim();
  const value = digits === '' ? 0 : Number.parseInt(digits, 8);
  if (!Number.isSafeInteger(value)) throw damaged('a header holds no number where one belongs');
  return value;
}

function text(bytes: Buffer, at: number, width: number): string {
  const field = bytes.subarray(at, at + width);
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end < 0 ? width : end);
}

function clean(path: string): string {
  return path
    .replace(/^(\.?\/+)+/, '')
    .replace(/\/+$/, '')
    .replace(/^\.$/, '');
}

function padded(size: number): number {
  return Math.ceil(size / 512) * 512;
}

function damaged(what: string): HpcsError {
  return new HpcsError('local', 'image-stream', `the file system of the image did not come whole: ${what}`, {
    suggestion: 'try again, and see the log of the Docker engine',
  });
}

async function* batched(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of source) {
    parts.push(part);
    size += part.length;
    if (size < batchSize) continue;
    yield parts.length === 1 ? part : Buffer.concat(parts);
    parts = [];
    size = 0;
  }
  if (size > 0) yield Buffer.concat(parts);
}

/** Bytes of a stream by number, not by chunk. */
class ByteSource implements AsyncDisposable {
  readonly #iterator: AsyncIterator<Uint8Array>;
  #chunk: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#iterator = source[Symbol.asyncIterator]();
  }

  /** Exactly `size` bytes in one piece, or undefined at the end of the stream. */
  async take(size: number): Promise<Buffer | undefined> {
    if (this.#chunk.length >= size) return this.#cut(size);
    const parts: Buffer[] = [];
    for (let left = size; left > 0;) {
      if (this.#chunk.length === 0 && !(await this.#next())) {
        if (left === size) return undefined;
        throw damaged('it ends within an entry');
      }
      const part = this.#cut(left);
      parts.push(part);
      left -= part.length;
    }
    return Buffer.concat(parts);
  }

  /** The next `size` bytes in pieces as they come. */
  async *pieces(size: number): AsyncGenerator<Buffer> {
    for (let left = size; left > 0;) {
      if (this.#chunk.length === 0 && !(await this.#next())) throw damaged('it ends within an entry');
      const part = this.#cut(left);
      left -= part.length;
      yield part;
    }
  }

  async drain(): Promise<void> {
    while (await this.#next());
  }

  #cut(size: number): Buffer {
    const part = this.#chunk.subarray(0, size);
    this.#chunk = this.#chunk.subarray(part.length);
    return part;
  }

  async #next(): Promise<boolean> {
    const { done, value } = await this.#iterator.next();
    if (done === true) return false;
    this.#chunk = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#iterator.return?.();
  }
}

import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { HpcsError, systemCode } from '../errors.ts';
import { Secret } from '../secret.ts';
import { blockSize } from './bytes.ts';

/** No key is longer; a larger file is not a key. */
const longestKey = 64 * 1024;

/** The bytes of a file, in blocks. @throws HpcsError `local` `unreadable` */
export async function* readBytes(path: string): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    yield* createReadStream(path, { highWaterMark: blockSize }) as AsyncIterable<Uint8Array>;
  } catch (error) {
    if (error instanceof HpcsError || systemCode(error) === undefined) throw error;
    throw new HpcsError('local', 'unreadable', `cannot read ${path}: ${systemCode(error)}`, { cause: error });
  }
}

/**
 * Reads a secret key from a file that nobody else may read, or from standard input.
 *
 * @param file path, or `-` for standard input
 * @throws HpcsError `usage` for a file open to others, or too long to be a key; `local` when it cannot be read
 */
export function readKey(file: string): Promise<Secret> {
  return readSecret(file, 'key');
}

/** Reads a passphrase as {@link readKey} reads a key: the first line, without its end. @throws HpcsError as that */
export async function readPassphrase(file: string): Promise<Secret> {
  using content = await readSecret(file, 'passphrase');
  const bytes = Buffer.from(content.bytes().buffer, content.bytes().byteOffset, content.bytes().byteLength);
  const end = bytes.indexOf(0x0a);
  const line = end < 0 ? bytes : bytes.subarray(0, end);
  return new Secret(line.at(-1) === 0x0d ? line.subarray(0, -1) : line);
}

async function readSecret(file: string, what: 'key' | 'passphrase'): Promise<Secret> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of file === '-' ? (process.stdin as AsyncIterable<Buffer>) : privateParts(file, what)) {
    parts.push(part);
    size += part.length;
    if (size > longestKey) throw new HpcsError('usage', 'key-invalid', `the ${what} file ${file} is too long to be a ${what}`);
  }
  const key = new Secret(Buffer.concat(parts));
  for (const part of parts) part.fill(0);
  return key;
}

async function* privateParts(file: string, what: string): AsyncGenerator<Buffer, void, undefined> {
  try {
    await using handle = await open(file, 'r');
    const { mode } = await handle.stat();
    if ((mode & 0o077) !== 0) {
      throw new HpcsError(
        'usage',
        'key-file-open',
        `the ${what} file ${file} is open to others (mode ${(mode & 0o777).toString(8)})`,
        {
          suggestion: `chmod 600 ${file}`,
        },
      );
    }
    const { buffer, bytesRead } = await handle.read({ buffer: Buffer.alloc(longestKey + 1) });
    yield buffer.subarray(0, bytesRead);
  } catch (error) {
    if (error instanceof HpcsError) throw error;
    throw new HpcsError('local', 'unreadable', `cannot read the ${what} file ${file}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
    });
  }
}

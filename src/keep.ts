import { randomBytes } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { HpcsError, systemCode } from './errors.ts';
import { makeDirectories } from './make-directories.ts';

/**
 * Passes bytes through and keeps a copy in a local file, which appears whole or not at all.
 *
 * @param file path of the copy; without one nothing is kept
 * @throws HpcsError `local` when the file cannot be written
 */
export async function* keepCopy(bytes: AsyncIterable<Uint8Array>, file: string | undefined): AsyncGenerator<Uint8Array> {
  if (file === undefined) {
    yield* bytes;
    return;
  }
  const write = async <Result>(step: Promise<Result>): Promise<Result> => {
    try {
      return await step;
    } catch (error) {
      throw new HpcsError('local', 'write-failed', `cannot write ${file}: ${systemCode(error) ?? 'unknown error'}`, {
        cause: error,
        suggestion: 'make room there, make it writable, or name another directory',
      });
    }
  };
  const temporary = `${file}.${randomBytes(6).toString('hex')}.part`;
  await write(makeDirectories(dirname(file)));
  const handle = await write(open(temporary, 'wx', 0o600));
  try {
    for await (const part of bytes) {
      await write(handle.writeFile(part));
      yield part;
    }
    await write(handle.sync());
    await write(rename(temporary, file));
  } finally {
    await handle.close();
    await rm(temporary, { force: true });
  }
}

/** Writes bytes to a local file, which appears whole or not at all. @throws HpcsError `local` */
export async function keepOnly(bytes: AsyncIterable<Uint8Array>, file: string): Promise<void> {
  for await (const _part of keepCopy(bytes, file));
}

import { mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { HpcsError, systemCode } from './errors.ts';

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
  const temporary = `${file}.${process.pid}.part`;
  const failed = (error: unknown): HpcsError =>
    new HpcsError('local', 'write-failed', `cannot keep a copy in ${file}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
    });
  await mkdir(dirname(file), { recursive: true }).catch((error: unknown) => { throw failed(error); }); // prettier-ignore
  const handle = await open(temporary, 'wx', 0o600).catch((error: unknown) => { throw failed(error); }); // prettier-ignore
  try {
    for await (const part of bytes) {
      await handle.writeFile(part).catch((error: unknown) => { throw failed(error); }); // prettier-ignore
      yield part;
    }
    await handle.sync();
    await rename(temporary, file);
  } finally {
    await handle.close();
    await rm(temporary, { force: true });
  }
}

/** Writes bytes to a local file, which appears whole or not at all. @throws HpcsError `local` */
export async function keepOnly(bytes: AsyncIterable<Uint8Array>, file: string): Promise<void> {
  for await (const _part of keepCopy(bytes, file));
}

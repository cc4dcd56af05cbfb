import { createWriteStream } from 'node:fs';
import { lstat, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { HpcsError, systemCode } from '../errors.ts';
import { makeDirectories } from '../make-directories.ts';
import { blockSize, ByteReader, type Bytes } from '../seal/bytes.ts';
import { isTar, tarBlock } from './tar.ts';
import { unpack, type Unpacked } from './unpack.ts';

/** What was restored, and where: the directory, or the one file in it. */
export interface Restored extends Unpacked {
  output: string;
}

/**
 * Puts what was sealed back into a directory: an archive is unpacked, anything else (an image) becomes one file. It appears
 * there only when the whole stream has been read without an error, and overwrites nothing.
 *
 * @param sealed name of the sealed file, from which that of a single file is made
 * @throws HpcsError as {@link unpack} does
 */
export async function restore(plain: Bytes, sealed: string, directory: string, signal?: AbortSignal): Promise<Restored> {
  await using reader = new ByteReader(plain);
  if (isTar(await reader.peek(tarBlock))) return { output: directory, ...(await unpack(reader.rest(), directory, { signal })) };
  const output = join(directory, plainName(sealed));
  return { output, entries: 1, bytes: await writeWhole(reader.rest(), output, directory, signal) };
}

/** `encrypted_x.sif` → `x.sif`. */
function plainName(sealed: string): string {
  const name = basename(sealed);
  const plain = name.replace(/^encrypted_/, '').replace(/\.(?:age|gpg|pgp)$/, '');
  return plain === name || plain === '' ? `${name}.opened` : plain;
}

async function writeWhole(plain: Bytes, output: string, directory: string, signal?: AbortSignal): Promise<number> {
  const partial = `${output}.${process.pid}.partial`;
  try {
    await makeDirectories(directory, 0o700);
    if ((await lstat(output).catch(() => undefined)) !== undefined) {
      throw new HpcsError('local', 'file-exists', `${output} exists already and is not overwritten`, {
        suggestion: 'choose another directory, or move it away',
      });
    }
    const file = createWriteStream(partial, { flags: 'wx', mode: 0o600, highWaterMark: blockSize });
    await pipeline(plain, file, { signal });
    await rename(partial, output);
    return file.bytesWritten;
  } catch (error) {
    await rm(partial, { force: true });
    signal?.throwIfAborted();
    const code = systemCode(error);
    if (error instanceof HpcsError || code === undefined) throw error;
    throw new HpcsError('local', code === 'ENOSPC' ? 'disk-full' : 'write-failed', `cannot write ${output}: ${code}`, {
      cause: error,
      suggestion: 'choose a directory with enough space in which you may write',
    });
  }
}

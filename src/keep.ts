import { randomBytes } from 'node:crypto';
import { link, open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { HpcsError, systemCode } from './errors.ts';
import { makeDirectories } from './make-directories.ts';

/** A copy of bytes in a local file, which appears whole or not at all: disposing removes it unless it was given a name. */
export class Copy implements AsyncDisposable {
  readonly #file: string;
  readonly #temporary: string;
  readonly #handle: FileHandle;

  private constructor(file: string, temporary: string, handle: FileHandle) {
    this.#file = file;
    this.#temporary = temporary;
    this.#handle = handle;
  }

  /** @param file path that the copy is meant for @throws HpcsError `local` when nothing can be written there */
  static async begin(file: string): Promise<Copy> {
    const temporary = `${file}.${randomBytes(6).toString('hex')}.part`;
    await writing(file, makeDirectories(dirname(file)));
    return new Copy(file, temporary, await writing(file, open(temporary, 'wx', 0o600)));
  }

  /** Passes bytes through and keeps them. @throws HpcsError `local` when the file cannot be written */
  async *of(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const part of bytes) {
      await writing(this.#file, this.#handle.writeFile(part));
      yield part;
    }
    await writing(this.#file, this.#handle.sync());
  }

  /** Puts it where it was meant to be, in place of what is there. @throws HpcsError `local` */
  async replace(): Promise<void> {
    await writing(this.#file, rename(this.#temporary, this.#file));
  }

  /**
   * Gives it the first of these names, in the directory that it was meant for, which nothing has.
   *
   * @returns its path
   * @throws HpcsError `local`, also when all are taken
   */
  async nameAs(names: readonly string[]): Promise<string> {
    for (const name of names) {
      const path = join(dirname(this.#file), name);
      if (await writing(path, renameToFree(this.#temporary, path))) return path;
    }
    throw failed(this.#file, 'EEXIST');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
    await rm(this.#temporary, { force: true });
  }
}

/** Writes bytes to a local file, which appears whole or not at all. @throws HpcsError `local` */
export async function keepOnly(bytes: AsyncIterable<Uint8Array>, file: string): Promise<void> {
  await using copy = await Copy.begin(file);
  for await (const _part of copy.of(bytes));
  await copy.replace();
}

/** Waits for a step that writes a local file or directory. @throws HpcsError `local`, which names it, where that fails */
export async function writing<Result>(file: string, step: Promise<Result>): Promise<Result> {
  try {
    return await step;
  } catch (error) {
    throw failed(file, systemCode(error) ?? 'unknown error', error);
  }
}

function failed(file: string, why: string, cause?: unknown): HpcsError {
  return new HpcsError('local', 'write-failed', `cannot write ${file}: ${why}`, {
    cause,
    suggestion: 'make room there, make it writable, or name another directory',
  });
}

/** Renames a file to what nothing is at. @returns whether nothing was */
async function renameToFree(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    await rm(from);
    return true;
  } catch (error) {
    const code = systemCode(error);
    if (code === 'EEXIST') return false;
    if (code === undefined || !['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(code)) throw error;
  }
  // Where the file system has no hard links an empty file of ours holds the name.
  try {
    await (await open(to, 'wx', 0o600)).close();
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    throw error;
  }
  try {
    await rename(from, to);
  } catch (error) {
    await rm(to, { force: true });
    throw error;
  }
  return true;
}

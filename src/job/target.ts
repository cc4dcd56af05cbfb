import { randomBytes } from 'node:crypto';
import { chmod, mkdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { HpcsError, systemCode } from '../errors.ts';
import { makeDirectories } from '../make-directories.ts';

/** A new directory that appears whole or not at all: until then all goes into a hidden neighbour, which disposing removes. */
export class TargetDirectory implements AsyncDisposable {
  readonly path: string;
  /** Where to write: a directory of mode 0700. */
  readonly temporary: string;

  private constructor(path: string, temporary: string) {
    this.path = path;
    this.temporary = temporary;
  }

  /** @param path must not exist, and its place must be writable @throws HpcsError `local` `target-exists` or `write-failed` */
  static async make(path: string): Promise<TargetDirectory> {
    const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.part`);
    try {
      await makeDirectories(dirname(path));
      // Early, so that nothing is fetched in vain.
      await mkdir(path, { mode: 0o700 });
      await rm(path, { recursive: true });
      await mkdir(temporary, { mode: 0o700 });
    } catch (error) {
      throw failed(path, error);
    }
    return new TargetDirectory(path, temporary);
  }

  /** Moves what was written, or one directory in it, to its place. */
  async publish(name = '.'): Promise<void> {
    try {
      const made = join(this.temporary, name);
      // Confidential, whatever mode the application left it with.
      await chmod(made, 0o700);
      await rename(made, this.path);
    } catch (error) {
      throw failed(this.path, error);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.temporary, { recursive: true, force: true });
  }
}

function failed(path: string, error: unknown): HpcsError {
  const code = systemCode(error) ?? 'unknown error';
  const exists = code === 'EEXIST' || code === 'ENOTEMPTY';
  return new HpcsError('local', exists ? 'target-exists' : 'write-failed', `cannot make ${path}: ${code}`, {
    cause: error,
    suggestion: exists
      ? 'name a new directory with --output; nothing is ever overwritten'
      : 'name another directory with --output',
  });
}

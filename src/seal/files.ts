import { createReadStream } from 'node:fs';
import { HpcsError, systemCode } from '../errors.ts';
import { blockSize } from './bytes.ts';

/** The bytes of a file, in blocks. @throws HpcsError `local` `unreadable` */
export async function* readBytes(path: string): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    yield* createReadStream(path, { highWaterMark: blockSize }) as AsyncIterable<Uint8Array>;
  } catch (error) {
    if (error instanceof HpcsError || systemCode(error) === undefined) throw error;
    throw new HpcsError('local', 'unreadable', `cannot read ${path}: ${systemCode(error)}`, {
      cause: error,
      suggestion: 'check the path, and that you may read the file',
    });
  }
}

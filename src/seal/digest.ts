import { createHash } from 'node:crypto';
import { unfinished, type Bytes } from './bytes.ts';

/** What identifies a run of bytes: its SHA-512 in hex and its size in bytes. */
export interface Summary {
  sha512: string;
  size: number;
}

/** A byte stream and the summary of what has passed through it. */
export interface Summarised {
  bytes: Bytes;
  /** Settles when `bytes` was read to its end, or failed, or was given up. Nobody has to wait for it. */
  summary: Promise<Summary>;
}

/** Lets a byte stream through unchanged and digests it on the way. */
export function digesting(input: Bytes): Summarised {
  const { promise, resolve, reject } = Promise.withResolvers<Summary>();
  // A consumer that stops early is not interested in the summary: its rejection must not end the process.
  promise.catch(() => undefined);
  return { bytes: passing(input, resolve, reject), summary: promise };
}

async function* passing(
  input: Bytes,
  resolve: (summary: Summary) => void,
  reject: (error: unknown) => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  const hash = createHash('sha512');
  let size = 0;
  try {
    for await (const piece of input) {
      hash.update(piece);
      size += piece.length;
      yield piece;
    }
    resolve({ sha512: hash.digest('hex'), size });
  } catch (error) {
    reject(error);
    throw error;
  } finally {
    reject(unfinished());
  }
}

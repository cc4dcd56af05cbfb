import { createWriteStream, fstatSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { HpcsError } from '../errors.ts';
import type { Bytes } from '../seal/bytes.ts';
import { unwritten } from '../standard-output.ts';

/**
 * Writes what was sealed to standard output, which stays open.
 *
 * @returns how many bytes there were, all of which were taken
 * @throws HpcsError `usage` for a terminal, `local` where standard output takes no more; what `plain` throws
 */
export async function toStandardOutput(plain: Bytes): Promise<number> {
  if (process.stdout.isTTY) {
    throw new HpcsError('usage', 'terminal-output', 'the decrypted bytes are not for a terminal', {
      suggestion: 'pipe them somewhere, or name a directory with --output',
    });
  }
  const output = standardOutput().on('error', () => {});
  let bytes = 0;
  for await (const piece of plain) {
    await new Promise<void>((resolve, reject) => {
      output.write(piece, (error) => (error ? reject(unwritten(error)) : resolve()));
    });
    bytes += piece.length;
  }
  return bytes;
}

function standardOutput(): Writable {
  const found = fstatSync(1);
  // To a file Node's own stream writes but once, and loses what had no room of a piece without a word. A pipe may be one that does not
  // block, and for that only Node's own can wait.
  return found.isFIFO() || found.isSocket() ? process.stdout : createWriteStream('', { fd: 1, autoClose: false });
}

import { createWriteStream, fstatSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { HpcsError, systemCode } from '../errors.ts';
import type { Bytes } from '../seal/bytes.ts';

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
  // oclif's listener throws all but EPIPE, past whoever could say what to do. What goes wrong is told to who writes, and once more when
  // oclif flushes what nothing can be written to.
  process.stdout.removeAllListeners('error').on('error', () => {});
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

function unwritten(error: Error): Error {
  const code = systemCode(error);
  if (code === undefined) return error;
  const [word, suggestion] = failures[code] ?? ['write-failed', 'send it somewhere else, or name a directory with --output'];
  return new HpcsError('local', word, `cannot write to standard output: ${code}`, { cause: error, suggestion });
}

const noRoom = ['disk-full', 'make room where it goes, or send it somewhere else, and do not use what is there'] as const;
const failures: Readonly<Record<string, readonly [code: string, suggestion: string]>> = {
  ENOSPC: noRoom,
  EDQUOT: noRoom,
  EPIPE: ['output-closed', 'the program that reads it ended before all was there; do not use what it made of that'],
};

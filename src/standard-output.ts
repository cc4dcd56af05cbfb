import { fstatSync, writeSync } from 'node:fs';
import { HpcsError, systemCode } from './errors.ts';

const lost = new AbortController();

/** Aborted when standard output takes no more, with the error that says so. */
export const outputLost: AbortSignal = lost.signal;

/** Has {@link outputLost} tell what goes wrong with standard output. What goes wrong with standard error ends nothing. */
export function watchOutput(): void {
  // A terminal that was closed, a log that is full: nobody hears of it, and what is under way is finished or taken back all the same.
  process.stderr.on('error', () => {});
  // oclif's listener throws all but EPIPE, past whoever could say what to do.
  process.stdout.removeAllListeners('error').on('error', (error) => lost.abort(unwritten(error)));
  // Node's own takes a write of which only a part had room in a file for a whole one.
  const fd: number | undefined = process.stdout.fd;
  if (fd !== undefined && fstatSync(fd).isFile()) process.stdout._write = writeWhole;
}

function writeWhole(
  this: { readonly fd: number },
  bytes: Buffer,
  _encoding: BufferEncoding,
  done: (error?: Error) => void,
): void {
  try {
    for (let at = 0; at < bytes.length;) at += writeSync(this.fd, bytes, at);
    done();
  } catch (error) {
    done(error as Error);
  }
}

/** Waits until standard output took all that was written, or {@link outputLost} tells why not. */
export function outputTaken(): Promise<void> {
  // oclif's own waits in vain for a stream that failed. What went wrong is told after the write.
  return new Promise((resolve) => void process.stdout.write('', () => setImmediate(resolve)));
}

/** What went wrong with a write to standard output, where the system says so, in words. */
export function unwritten(error: Error): Error {
  const code = systemCode(error);
  if (code === undefined) return error;
  const [word, suggestion] = failures[code] ?? ['write-failed', 'send it somewhere else, and do not use what is there'];
  return new HpcsError('local', word, `cannot write to standard output: ${code}`, { cause: error, suggestion });
}

const noRoom = ['disk-full', 'make room where it goes, or send it somewhere else, and do not use what is there'] as const;
const failures: Readonly<Record<string, readonly [code: string, suggestion: string]>> = {
  ENOSPC: noRoom,
  EDQUOT: noRoom,
  EPIPE: ['output-closed', 'the program that reads it ended before all was there; do not use what it made of that'],
};

import { on, once } from 'node:events';
import { open, type FileHandle } from 'node:fs/promises';
import { createInterface } from 'node:readline/promises';
import { ReadStream } from 'node:tty';
import { HpcsError } from './errors.ts';
import { Secret } from './secret.ts';

/** What is longer is cut: no secret is. */
const longest = 64 * 1024;

/**
 * Asks on the terminal without showing what is typed. The terminal itself is asked, not standard input, which may be data.
 *
 * @param options.lines asks for several lines, to Ctrl-D, instead of one
 * @returns the line without its end, or the lines; undefined where this process has no terminal
 * @throws HpcsError `interrupted` for Ctrl-C; the signal's reason
 */
export async function askHidden(
  question: string,
  options: { signal: AbortSignal; lines?: boolean },
): Promise<Secret | undefined> {
  let handle: FileHandle;
  try {
    handle = await open('/dev/tty', 'r+');
  } catch {
    return undefined;
  }
  await using terminal = handle;
  const input = new ReadStream(terminal.fd);
  try {
    input.setRawMode(true);
    await terminal.write(question);
    return await readTyped(input, options);
  } finally {
    input.setRawMode(false);
    // What merely pauses goes on reading, and keeps the process.
    input.destroy();
    await terminal.write('\n');
  }
}

/**
 * Asks for a yes on the terminal.
 *
 * @returns whether `yes` was answered; false where this process has no terminal to ask on
 * @throws the signal's reason
 */
export async function confirm(question: string, signal: AbortSignal): Promise<boolean> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) return false;
  // The terminal's own editing, under which Ctrl-C is a signal as everywhere.
  const lines = createInterface({ input: process.stdin, output: process.stderr, terminal: false });
  try {
    const ended = once(lines, 'close').then(() => '');
    const answer = await Promise.race([lines.question(question, { signal }), ended]);
    return /^yes$/i.test(answer.trim());
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    lines.close();
  }
}

async function readTyped(
  input: ReadStream,
  { signal, lines = false }: { signal: AbortSignal; lines?: boolean },
): Promise<Secret> {
  const typed = Buffer.alloc(longest);
  let length = 0;
  try {
    for await (const octet of octets(input, signal)) {
      // In raw mode these are ours to act on: Enter, Ctrl-D, Ctrl-C, backspace, Ctrl-U.
      const isEnter = octet === 0x0a || octet === 0x0d;
      if (octet === 0x04 || (isEnter && !lines)) break;
      if (octet === 0x03) throw new HpcsError('interrupted', 'interrupted', 'interrupted');
      else if (octet === 0x7f || octet === 0x08) length = withoutLast(typed, length);
      else if (octet === 0x15) length = 0;
      else if (length < longest) typed[length++] = isEnter ? 0x0a : octet;
    }
    return new Secret(typed.subarray(0, length));
  } finally {
    typed.fill(0);
  }
}

/** The length without the last character, which in UTF-8 may be several octets. */
function withoutLast(typed: Buffer, length: number): number {
  let left = Math.max(0, length - 1);
  while (left > 0 && ((typed[left] ?? 0) & 0xc0) === 0x80) left--;
  return left;
}

async function* octets(input: ReadStream, signal: AbortSignal): AsyncGenerator<number, void, undefined> {
  try {
    for await (const [part] of on(input, 'data', { signal, close: ['end'] }) as AsyncIterable<[Buffer]>) {
      yield* part;
      part.fill(0);
    }
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}

import { open, readFile } from 'node:fs/promises';
import { addAbortSignal } from 'node:stream';
import { HpcsError, systemCode } from './errors.ts';
import { Secret } from './secret.ts';
import { askHidden } from './terminal.ts';

/** No key is longer; a larger file is not a key. */
const longestKey = 64 * 1024;

/**
 * Reads a token from a file or from standard input: other users of a machine can see what stands in a command line. Where that is a
 * terminal, the token is asked for, and not shown.
 *
 * @param options.file undefined for standard input
 * @param options.what for people, for example `enrolment token`
 * @param options.form what it looks like, white space around it aside
 * @param options.expected the same for people, with what to do
 * @throws HpcsError `usage`; the signal's reason
 */
export async function readToken(options: {
  file: string | undefined;
  what: string;
  form: RegExp;
  expected: { form: string; suggestion: string };
  signal: AbortSignal;
}): Promise<Secret> {
  const { file, what, form, expected, signal } = options;
  using read = file === undefined ? await readInput(what, signal) : await readTokenFile(file);
  const content = read.reveal().trim();
  if (form.test(content)) return new Secret(content);
  throw new HpcsError('usage', 'bad-token', `this is no ${what}: ${expected.form}`, { suggestion: expected.suggestion });
}

async function readTokenFile(file: string): Promise<Secret> {
  try {
    return new Secret(await readFile(file));
  } catch (error) {
    const why = systemCode(error) ?? 'unknown error';
    throw new HpcsError('usage', 'token-unreadable', `cannot read the token-file ${file}: ${why}`, {
      cause: error,
      suggestion: 'name a readable file, or give the token on standard input',
    });
  }
}

/**
 * Reads a secret key from a file that nobody else may read, or from standard input.
 *
 * @param file path, or `-` for standard input; where that is a terminal, the key is asked for, and not shown
 * @throws HpcsError `usage` for a file open to others, or too long to be a key; `local` when it cannot be read; the signal's reason
 */
export function readKey(file: string, signal: AbortSignal): Promise<Secret> {
  return file === '-' ? readInput('key', signal, { lines: true }) : readPrivate(file, 'key');
}

/** Reads a passphrase as {@link readKey} reads a key: the first line, without its end. @throws HpcsError as that */
export async function readPassphrase(file: string, signal: AbortSignal): Promise<Secret> {
  using content = file === '-' ? await readInput('passphrase', signal) : await readPrivate(file, 'passphrase');
  const bytes = Buffer.from(content.bytes().buffer, content.bytes().byteOffset, content.bytes().byteLength);
  const end = bytes.indexOf(0x0a);
  const line = end < 0 ? bytes : bytes.subarray(0, end);
  return new Secret(line.at(-1) === 0x0d ? line.subarray(0, -1) : line);
}

/** All of standard input; on a terminal a line, or with `lines` what comes before Ctrl-D. */
async function readInput(what: string, signal: AbortSignal, { lines = false } = {}): Promise<Secret> {
  if (process.stdin.isTTY) {
    const typed = await askHidden(`the ${what}${lines ? ', then Ctrl-D' : ''}: `, { signal, lines });
    if (typed !== undefined) return typed;
  }
  const parts: Buffer[] = [];
  let size = 0;
  try {
    for await (const part of addAbortSignal(signal, process.stdin) as AsyncIterable<Buffer>) {
      parts.push(part);
      size += part.length;
      if (size > longestKey) throw tooLong('what stands on standard input', what);
    }
    return new Secret(Buffer.concat(parts));
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof HpcsError) throw error;
    const why = systemCode(error) ?? 'unknown error';
    throw new HpcsError('usage', 'input-unreadable', `cannot read the ${what} from standard input: ${why}`, {
      cause: error,
      suggestion: `name a file that holds the ${what}`,
    });
  } finally {
    for (const part of parts) part.fill(0);
  }
}

async function readPrivate(file: string, what: 'key' | 'passphrase'): Promise<Secret> {
  try {
    await using handle = await open(file, 'r');
    const { mode } = await handle.stat();
    if ((mode & 0o077) !== 0) {
      const open = `the ${what} file ${file} is open to others (mode ${(mode & 0o777).toString(8)})`;
      throw new HpcsError('usage', 'key-file-open', open, { suggestion: `chmod 600 ${file}` });
    }
    const { buffer, bytesRead } = await handle.read({ buffer: Buffer.alloc(longestKey + 1) });
    if (bytesRead > longestKey) throw tooLong(`the ${what} file ${file}`, what);
    const secret = new Secret(buffer.subarray(0, bytesRead));
    buffer.fill(0);
    return secret;
  } catch (error) {
    if (error instanceof HpcsError) throw error;
    throw new HpcsError('local', 'unreadable', `cannot read the ${what} file ${file}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
      suggestion: 'check the path, and that you may read the file',
    });
  }
}

function tooLong(where: string, what: string): HpcsError {
  return new HpcsError('usage', 'key-invalid', `${where} is too long to be a ${what}`, {
    suggestion: `give the ${what} and nothing else`,
  });
}

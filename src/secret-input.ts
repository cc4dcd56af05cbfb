import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { HpcsError, systemCode } from './errors.ts';
import { Secret } from './secret.ts';

/**
 * Reads a token from a file or from standard input: other users of a machine can see what stands in a command line.
 *
 * @param options.file undefined for standard input
 * @param options.what for people, for example `enrolment token`
 * @param options.form what it looks like, white space around it aside
 * @param options.expected the same for people, with what to do
 * @throws HpcsError `usage`
 */
export async function readToken(options: {
  file: string | undefined;
  what: string;
  form: RegExp;
  expected: { form: string; suggestion: string };
  progress: (line: string) => void;
}): Promise<Secret> {
  const { file, what, form, expected, progress } = options;
  if (file === undefined && process.stdin.isTTY) progress(`the ${what}, then Ctrl-D:`);
  let content: string;
  try {
    content = (file === undefined ? await text(process.stdin) : await readFile(file, 'utf8')).trim();
  } catch (error) {
    const why = systemCode(error) ?? 'unknown error';
    throw new HpcsError('usage', 'token-unreadable', `cannot read the token-file ${file}: ${why}`, {
      cause: error,
      suggestion: 'name a readable file, or give the token on standard input',
    });
  }
  if (form.test(content)) return new Secret(content);
  throw new HpcsError('usage', 'bad-token', `this is no ${what}: ${expected.form}`, { suggestion: expected.suggestion });
}

import { firstError, HpcsError, messageOf } from './errors.ts';

/** An error as oclif throws it. */
interface OclifError extends Error {
  oclif?: { exit?: number };
}

/**
 * Whatever ended a command, as the one error type: parse errors of oclif are errors of usage, all else that nobody translated is
 * a bug.
 *
 * @param command its name, for a suggestion
 */
export function asHpcsError(thrown: unknown, command: string): HpcsError {
  const error = firstError(thrown);
  if (error instanceof HpcsError) return fromFlag(error);
  if (error instanceof Error && (error as OclifError).oclif?.exit === 2) {
    return new HpcsError('usage', 'usage', parseErrorText(error.message), { suggestion: `see ${command} --help` });
  }
  return new HpcsError('bug', 'bug', messageOf(error), { cause: error });
}

// oclif writes its own words around those of an error that the value of a flag had.
function fromFlag(error: HpcsError): HpcsError {
  const [, flag, fact] = /^Parsing (--\S+) \n\t(.*)\nSee more help with --help$/su.exec(error.message) ?? [];
  if (flag === undefined) return error;
  const { kind, code, suggestion } = error;
  return new HpcsError(kind, code, `${flag}: ${fact}`, suggestion === undefined ? {} : { suggestion });
}

// oclif writes sentences over several lines, under a heading where there are more than one.
function parseErrorText(message: string): string {
  const lines = message.split('\n').map((line) => line.trim().replaceAll(/ {2,}/g, ' '));
  const heading = 'The following errors occurred:';
  const text = lines.filter((line) => line !== '' && line !== heading && !line.startsWith('See more help'));
  const facts = text.map((line) => line.replace(/^[A-Z](?=[a-z])/, (first) => first.toLowerCase()));
  return facts.join(lines.includes(heading) ? '; ' : ' ');
}

/**
 * Tells the user what went wrong and sets the exit code: message and next step on standard error, with `json` the same as a record
 * on standard output. Stacks are shown for bugs, and with `DEBUG=hpcs`.
 */
export function reportError(error: HpcsError, options: { json: boolean }): void {
  process.exitCode = error.exitCode;
  const debug = process.env['DEBUG']?.includes('hpcs') === true;
  if (options.json) process.stdout.write(`${jsonText(error, 2)}\n`);
  const lines = [`hpcs: error: ${error.message}`];
  if (error.suggestion !== undefined) lines.push(`  ${error.suggestion}`);
  const { cause } = error;
  if (error.kind === 'bug' || debug)
    lines.push((error.kind === 'bug' && cause instanceof Error ? cause.stack : error.stack) ?? '');
  if (debug && cause !== undefined) lines.push(`caused by: ${messageOf(cause)}`);
  process.stderr.write(`${printable(lines.join('\n'))}\n`);
}

/** JSON for standard output and error: what some terminals obey is escaped there, too, from U+007F to U+009F. */
export function jsonText(value: unknown, indent?: number): string {
  return JSON.stringify(value, undefined, indent).replaceAll(
    /[\u007f-\u009f]/g,
    (character) => `\\u00${character.charCodeAt(0).toString(16)}`,
  );
}

/** Text that may quote what the site said, without what could steer the terminal it is shown on. */
export function printable(text: string): string {
  return text.replaceAll(/[^\P{Cc}\n\t]/gu, '?');
}

/** Words of somebody else within a line of ours: as {@link printable}, on one line, and no longer than `longest`. */
export function printableLine(words: string, longest: number): string {
  return words.replaceAll(/\p{Cc}/gu, '?').slice(0, longest);
}

/** A writer for text that comes in pieces from the site: what {@link printable} leaves of it. */
export function printableWriter(write: (text: string) => unknown): (bytes: Uint8Array) => void {
  const decoder = new TextDecoder();
  return (bytes) => void write(printable(decoder.decode(bytes, { stream: true })));
}

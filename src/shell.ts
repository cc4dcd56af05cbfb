import { HpcsError } from './errors.ts';

/**
 * One word of POSIX shell that stands for exactly `value`: the only way a value of a user enters shell text.
 *
 * @param value any text but NUL, which no shell variable or argument can hold
 * @throws HpcsError `usage` for a NUL character
 * @see POSIX.1-2024, Shell Command Language, 2.2.2 Single-Quotes
 */
export function quote(value: string): string {
  if (value.includes('\0')) throw nulCharacter();
  return `'${value.replaceAll("'", `'\\''`)}'`;
}

/** Of text that no shell can be given. */
export function nulCharacter(): HpcsError {
  return new HpcsError('usage', 'nul-character', 'a value holds a NUL character, which no shell can pass on', {
    suggestion: 'take the NUL character out of the value',
  });
}

/** Assignments `NAME='value'`, one a line, for a fixed body of shell to read. Names are ours; values are anyone's. */
export function assignments(values: Readonly<Record<string, string>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name}=${quote(value)}\n`)
    .join('');
}

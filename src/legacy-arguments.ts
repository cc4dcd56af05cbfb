/**
 * Translates the original's command lines into ones that oclif can parse: a multi-letter flag behind one dash, and free text that
 * looks like flags. See "Command lines that existing compose files contain" in the README.
 */

/** Words behind one dash that oclif would read as a bundle of short flags. */
const longNames: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'job-prep': {
    '-ai': '--application-info',
    '-di': '--data-info',
    '-args': '--arguments',
    '-flags': '--singularity-supplementary-flags',
  },
};

/** Flags whose value may itself begin with a dash. */
const verbatim = new Set(['--arguments', '--singularity-supplementary-flags']);

/**
 * @param argv the words behind the program's name, command first
 * @returns the same, in words that oclif understands; nothing behind `--` is touched
 */
export function fromLegacy(argv: readonly string[]): string[] {
  const command = argv[0] ?? '';
  const names = longNames[command];
  if (names === undefined) return [...argv];
  const words: string[] = [command];
  for (let i = 1; i < argv.length; i++) {
    const word = argv[i] as string;
    if (word === '--') return [...words, ...argv.slice(i)];
    const equals = /^(-[a-z]+)=(.*)$/su.exec(word);
    const name = names[equals?.[1] ?? word] ?? equals?.[1] ?? word;
    const value = equals === null ? argv[i + 1] : equals[2];
    const taken = equals !== null && names[equals[1] as string] !== undefined;
    if (verbatim.has(name) && value !== undefined) {
      words.push(`${name}=${value}`);
      if (equals === null) i++;
    } else if (taken) words.push(name, value as string);
    else words.push(names[word] ?? word);
  }
  return words;
}

/**
 * Takes off the quotes that the original's compose file carries inside a value: `"00:60:00"` in literal quotes, or an argument
 * string as `"\" … \""`, a value in quotes in quotes.
 */
export function unwrapQuotes(value: string): string {
  let text = value.trim();
  for (const [open, close] of [
    ['"\\"', '\\""'],
    ['"', '"'],
    ["'", "'"],
  ] as const) {
    // prettier-ignore
    if (text.length >= open.length + close.length && text.startsWith(open) && text.endsWith(close)) {
      text = text.slice(open.length, -close.length);
      return open === '"\\"' ? text.trim() : text;
    }
  }
  return value;
}

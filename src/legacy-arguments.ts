/**
 * Translates the original's command lines into ones that oclif can parse: a multi-letter flag behind one dash, and free text that
 * looks like flags. See "Compose files of the original" in the README.
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

/** Flags whose value may itself be a word that oclif takes for a flag, even behind an equals sign. */
const verbatim = new Set(['--arguments', '--singularity-supplementary-flags']);

/**
 * @param argv the words behind the program's name; words for oclif itself may stand before the command
 * @returns the same, in words that oclif understands; free text in quotes that {@link unwrapQuotes} takes off again; nothing behind
 *   `--` is touched
 */
export function fromLegacy(argv: readonly string[]): string[] {
  const at = argv.findIndex((word) => !word.startsWith('-'));
  const names = longNames[argv[at] ?? ''];
  if (names === undefined) return [...argv];
  const words = argv.slice(0, at + 1);
  for (let i = at + 1; i < argv.length; i++) {
    const word = argv[i] as string;
    if (word === '--') return [...words, ...argv.slice(i)];
    const [, flag = word, attached] = /^(-[a-z]+|--[a-z-]+)=(.*)$/su.exec(word) ?? [];
    const name = names[flag] ?? flag;
    if (verbatim.has(name)) {
      const value = attached ?? argv[++i];
      words.push(value === undefined ? name : `${name}="\\"${unwrapQuotes(value)}\\""`);
    } else if (names[flag] === undefined) words.push(word);
    else words.push(name, ...(attached === undefined ? [] : [attached]));
  }
  return words;
}

/**
 * Takes off the quotes that the original's compose file carries inside a value: `"00:60:00"` in literal quotes, or an argument
 * string as `"\" … \""`, a value in quotes in quotes. Quotes that a shell would need, around white space or beside other quotes,
 * stay.
 */
export function unwrapQuotes(value: string): string {
  const text = value.trim();
  const twice = /^"\\"(.*)\\""$/su.exec(text)?.[1];
  if (twice !== undefined) return twice;
  return /^"([^\s"'\\]+)"$/u.exec(text)?.[1] ?? /^'([^\s"'\\]+)'$/u.exec(text)?.[1] ?? value;
}

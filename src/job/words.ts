import { HpcsError } from '../errors.ts';

/**
 * Splits text into words as a POSIX shell would, with quotes and backslashes but without any expansion: `$`, `;`, `*` and line
 * breaks inside quotes are ordinary characters.
 *
 * @param what names the text in the error
 * @throws HpcsError `usage` for a quote that is not closed
 * @see POSIX.1-2024, Shell Command Language, 2.2 Quoting
 */
export function splitWords(text: string, what: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  let quote: '"' | "'" | undefined;
  for (let i = 0; i < text.length; i++) {
    const char = text[i] as string;
    const next = text[i + 1];
    if (quote === "'") {
      if (char === "'") quote = undefined;
      else word += char;
    } else if (char === '\\' && next !== undefined && (quote === undefined || '"\\$`\n'.includes(next))) {
      // A line that goes on: as if neither character stood there.
      if (next !== '\n') word = (word ?? '') + next;
      i++;
    } else if (quote === '"') {
      if (char === '"') quote = undefined;
      else word += char;
    } else if (char === '"' || char === "'") {
      quote = char;
      word ??= '';
    } else if (' \t\n'.includes(char)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else word = (word ?? '') + char;
  }
  if (quote !== undefined) {
    throw new HpcsError('usage', 'unclosed-quote', `the ${what} holds a quote ${quote} that is not closed`, {
      suggestion: 'close it, or give the arguments as words of their own behind --',
    });
  }
  if (word !== undefined) words.push(word);
  return words;
}

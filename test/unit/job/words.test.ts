import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import * as fc from 'fast-check';
import { splitWords } from '../../../src/job/words.ts';

const split = (text: string) => splitWords(text, 'value of --arguments');

/** How bash splits each text, or undefined where it finds a quote that is not closed. One bash for all. */
function asBash(texts: readonly string[]): (string[] | undefined)[] {
  const script = `while IFS= read -r -d '' text; do
    if words=$(eval "set -- $text" 2>/dev/null && printf '%s\\1' "$@" && printf '\\2%s' $#); then printf '%s\\0' "$words"; else printf 'unclosed\\0'; fi
  done`;
  const { stdout } = spawnSync('bash', ['-c', script], {
    input: texts.map((text) => `${text}\0`).join(''),
    env: { LC_ALL: 'C.UTF-8' },
  });
  return stdout.toString().split('\0').slice(0, -1).map((line) => {
    if (line === 'unclosed') return undefined;
    const [words = '', count] = line.split('\u0002');
    return count === '0' ? [] : words.split('\u0001').slice(0, -1);
  }); // prettier-ignore
}

describe('words of one string', () => {
  for (const [text, words] of [
    ['', []],
    ['   ', []],
    ['a b\tc\nd', ['a', 'b', 'c', 'd']],
    [' /in/image.png --width=100 --output=/out/result ', ['/in/image.png', '--width=100', '--output=/out/result']],
    ['"a b" c', ['a b', 'c']],
    [`'a "b"' "c 'd'"`, ['a "b"', "c 'd'"]],
    ['""', ['']],
    [`a''b""c`, ['abc']],
    [String.raw`a\ b`, ['a b']],
    [String.raw`"a\"b\\c\d"`, [String.raw`a"b\c\d`]],
    [String.raw`'a\'`, ['a\\']],
    ['$HOME `id` $(id) ; rm -rf * ~ > /x', ['$HOME', '`id`', '$(id)', ';', 'rm', '-rf', '*', '~', '>', '/x']],
    ['"a\nb"', ['a\nb']],
    ['a\\\nb', ['ab']],
    ['a \\\n b', ['a', 'b']],
    ['a\\', ['a\\']],
    ['naïve 😀', ['naïve', '😀']],
    ['no\u00A0break', ['no\u00A0break']],
  ] as [string, string[]][]) {
    it(`of ${JSON.stringify(text)} are ${JSON.stringify(words)}`, () => assert.deepEqual(split(text), words));
  }

  it('must have their quotes closed', () => {
    for (const text of ['"a', "it's", `"a'`, '"a\\"']) {
      assert.throws(() => split(text), { code: 'unclosed-quote', exitCode: 2 }, text);
    }
  });

  it('are the words of bash, where nothing is expanded', () => {
    const text = fc
      .array(fc.constantFrom('a', 'ü', ' ', '\n', '\t', '"', "'", '\\', '-', '='), { maxLength: 12 })
      .map((chars) => chars.join(''));
    fc.assert(
      fc.property(fc.array(text, { minLength: 200, maxLength: 300 }), (texts) => {
        const expected = asBash(texts);
        for (const [index, one] of texts.entries()) {
          let words: string[] | undefined;
          try {
            words = split(one);
          } catch {
            words = undefined;
          }
          // A newline ends a command in bash, here it parts words; and bash is not of one mind about a backslash at the end.
          if (one.endsWith('\\') || /\n/.test(one.replaceAll(/\\[^]|"[^"]*"|'[^']*'/g, ''))) continue;
          assert.deepEqual(words, expected[index], JSON.stringify(one));
        }
      }),
      { numRuns: 4, endOnFailure: true },
    );
  });
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import * as fc from 'fast-check';
import { assignments, quote } from '../../src/shell.ts';

/** What a shell makes of a word. */
function asRead(shell: string, script: string): string {
  const { stdout, stderr, status } = spawnSync(shell, ['-s'], {
    input: script,
    env: { PATH: process.env['PATH'], LC_ALL: 'C.UTF-8' },
  });
  assert.equal(status, 0, stderr.toString());
  return stdout.toString();
}

const hostile = [
  '',
  ' ',
  "'",
  `'"'"'`,
  '"',
  '\\',
  "\\'",
  '$HOME',
  '`id`',
  '$(id)',
  ';id',
  '\n',
  '\r\n',
  '!!',
  '~',
  '*',
  '-n',
  '#',
  'é😀',
  '\u2028',
  '\x1B[2J',
  '\x7F',
  '{a,b}',
  "'; exit 1; '",
];

describe('shell quoting', () => {
  for (const shell of ['bash', 'dash']) {
    it(`gives exactly the value in ${shell}`, () => {
      assert.equal(
        asRead(shell, `printf '%s\\0' ${hostile.map(quote).join(' ')}`),
        hostile.map((value) => `${value}\0`).join(''),
      );
    });

    it(`gives exactly any value in ${shell}`, () => {
      const value = fc
        .array(fc.oneof(fc.constantFrom(...hostile), fc.string({ unit: 'binary' })))
        .map((parts) => parts.join('').replaceAll('\0', ''));
      fc.assert(
        fc.property(fc.array(value, { minLength: 50, maxLength: 100 }), (values) => {
          assert.equal(
            asRead(shell, `printf '%s\\0' ${values.map(quote).join(' ')}`),
            values.map((text) => `${text}\0`).join(''),
          );
        }),
        { numRuns: 5, endOnFailure: true },
      );
    });
  }

  it('refuses NUL, which no shell can pass on', () => {
    assert.throws(() => quote('a\0b'), { code: 'nul-character', exitCode: 2, suggestion: /NUL/ });
  });

  it('assigns to variables, one a line', () => {
    assert.equal(assignments({ a: '1', b: "it's" }), `a='1'\nb='it'\\''s'\n`);
    assert.equal(asRead('bash', `${assignments({ a: '$(id)\n"' })}printf %s "$a"`), '$(id)\n"');
  });
});

import assert from 'node:assert/strict';
import { splitWords } from '../../src/job/words.ts';
import { fromLegacy, unwrapQuotes } from '../../src/legacy-arguments.ts';

/** The argument arrays of the original's README, as YAML gives them. */
const compose = [
  ['--config', '/tmp/hpcs-client.conf', '-N', '1', '-p', 'standard', '-t', '"00:60:00"', '-A', 'project_462000031'],
  ['--nodelist', 'nid003044', '--workdir', '/scratch/project_462000031/etellier'],
  ['-ai', '/scratch/project_462000031/etellier/encrypted_prepared_jp2a.sif.info.yaml'],
  ['-di', '/scratch/project_462000031/etellier/encrypted_jp2a_input.tgz.info.yaml'],
  ['-args', String.raw`"\" /sd-container/encrypted/jp2a_input/image.png --width=100 --output=/sd-container/output/result \""`],
  ['-i', '/pfs/lustrep4/scratch/project_462000031/etellier/verification_scripts'],
  ['-o', '/pfs/lustrep4/scratch/project_462000031/etellier/verification_scripts'],
  ['-flags', '--env TERM=xterm-256color', '-f'],
].flat();

/** Free text as oclif gets it. */
const wrapped = (name: string, value: string): string => `${name}="\\"${value}\\""`;

describe('command lines of the original', () => {
  it('are translated: the compose file of its README', () => {
    assert.deepEqual(fromLegacy(['job-prep', ...compose]), [
      'job-prep',
      ...compose.slice(0, 14),
      '--application-info',
      '/scratch/project_462000031/etellier/encrypted_prepared_jp2a.sif.info.yaml',
      '--data-info',
      '/scratch/project_462000031/etellier/encrypted_jp2a_input.tgz.info.yaml',
      String.raw`--arguments="\" /sd-container/encrypted/jp2a_input/image.png --width=100 --output=/sd-container/output/result \""`,
      ...compose.slice(20, 24),
      wrapped('--singularity-supplementary-flags', '--env TERM=xterm-256color'),
      '-f',
    ]);
  });

  for (const [written, read] of [
    [
      ['-ai', 'F'],
      ['--application-info', 'F'],
    ],
    [['-ai=F'], ['--application-info', 'F']],
    [['-di=a=b'], ['--data-info', 'a=b']],
    [['-di='], ['--data-info', '']],
    [
      ['-ai', '--json'],
      ['--application-info', '--json'],
    ],
    [['-args', '-f'], [wrapped('--arguments', '-f')]],
    [['-args=-f'], [wrapped('--arguments', '-f')]],
    [['-args', '--json'], [wrapped('--arguments', '--json')]],
    [['-args', '--help'], [wrapped('--arguments', '--help')]],
    [['-args', '--'], [wrapped('--arguments', '--')]],
    [['-args', ''], [wrapped('--arguments', '')]],
    [['-args', 'a\nb'], [wrapped('--arguments', 'a\nb')]],
    [['-args=a\nb'], [wrapped('--arguments', 'a\nb')]],
    [['--arguments', '-f'], [wrapped('--arguments', '-f')]],
    [['--arguments', '--json'], [wrapped('--arguments', '--json')]],
    [['--arguments=-f'], [wrapped('--arguments', '-f')]],
    [['--arguments=--arguments'], [wrapped('--arguments', '--arguments')]],
    [
      ['--arguments', '-ai', '-ai', 'F'],
      [wrapped('--arguments', '-ai'), '--application-info', 'F'],
    ],
    [['-flags', '--nv'], [wrapped('--singularity-supplementary-flags', '--nv')]],
    [['-flags=--nv'], [wrapped('--singularity-supplementary-flags', '--nv')]],
    [['-args', '"a b" "c"'], [wrapped('--arguments', '"a b" "c"')]],
    [['-args', '"-f"'], [wrapped('--arguments', '-f')]],
    [['-args', 'a\\'], [wrapped('--arguments', 'a\\')]],
    [
      ['--singularity-supplementary-flags', '--json', '--json'],
      [wrapped('--singularity-supplementary-flags', '--json'), '--json'],
    ],
    [['-args'], ['--arguments']],
    [['-ai'], ['--application-info']],
    [
      ['-f', '-N', '1'],
      ['-f', '-N', '1'],
    ],
    [
      ['-a=x', '-x=y'],
      ['-a=x', '-x=y'],
    ],
    [
      ['--', '-ai', '-args', 'x'],
      ['--', '-ai', '-args', 'x'],
    ],
    [
      ['-f', '--', '--arguments', '-f'],
      ['-f', '--', '--arguments', '-f'],
    ],
  ] as [string[], string[]][]) {
    it(`${JSON.stringify(written)} becomes ${JSON.stringify(read)}`, () => {
      assert.deepEqual(fromLegacy(['job-prep', ...written]), ['job-prep', ...read]);
    });
  }

  it('give back free text word by word', () => {
    for (const value of ['-f', '--json', '', ' a  b ', '"a b" c', `it's`, 'a\\', '\\""', '"', '$x `y`\n;', String.raw`"\"x\""`]) {
      for (const argv of [['-args', value], [`-args=${value}`], ['--arguments', value], [`--arguments=${value}`]]) {
        const [, word = ''] = fromLegacy(['job-prep', ...argv]);
        assert.equal(unwrapQuotes(word.slice('--arguments='.length)), unwrapQuotes(value), JSON.stringify(argv));
      }
    }
  });

  it('are left alone for other commands and without one', () => {
    for (const argv of [
      [],
      ['--help'],
      ['-ai', 'x'],
      ['data-prep', '-ai', 'x'],
      ['job', 'results', '-di'],
      ['help', 'job-prep', '-ai'],
    ]) {
      assert.deepEqual(fromLegacy(argv), argv);
    }
  });

  it('are found behind words for the program itself', () => {
    assert.deepEqual(fromLegacy(['--json', 'job-prep', '-ai', 'F']), ['--json', 'job-prep', '--application-info', 'F']);
  });

  it('are not changed in place', () => {
    const argv = Object.freeze(['job-prep', '-ai', 'F']);
    fromLegacy(argv);
    assert.deepEqual(argv, ['job-prep', '-ai', 'F']);
  });
});

describe('quotes inside a value', () => {
  for (const [written, read] of [
    ['"00:60:00"', '00:60:00'],
    [`'00:60:00'`, '00:60:00'],
    [' "00:60:00" ', '00:60:00'],
    ['00:60:00', '00:60:00'],
    [String.raw`"\" /in/image.png --width=100 \""`, ' /in/image.png --width=100 '],
    [String.raw`"\"a 'b c' \$x\""`, String.raw`a 'b c' \$x`],
    [String.raw`"\"\""`, ''],
    ['"\\"a\nb\\""', 'a\nb'],
    // Quotes that part words belong to the value.
    ['"a b" "c d"', '"a b" "c d"'],
    ['"a b"', '"a b"'],
    [`'a' 'b'`, `'a' 'b'`],
    [`"it's"`, `"it's"`],
    [String.raw`"a\"b"`, String.raw`"a\"b"`],
    ['"', '"'],
    ['""', '""'],
    ['', ''],
    [' a ', ' a '],
  ] as const) {
    it(`${written} is ${read}`, () => assert.equal(unwrapQuotes(written), read));
  }

  it('leaves the words of an argument string as a shell would have them', () => {
    const words = (value: string) => splitWords(unwrapQuotes(value), 'value');
    assert.deepEqual(words('"a b" c "d"'), ['a b', 'c', 'd']);
    assert.deepEqual(words(`"--width=100"`), ['--width=100']);
    assert.deepEqual(words(compose[compose.indexOf('-args') + 1] as string), [
      '/sd-container/encrypted/jp2a_input/image.png',
      '--width=100',
      '--output=/sd-container/output/result',
    ]);
  });
});

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { HpcsError } from '../../src/errors.ts';
import { asHpcsError, printable, printableLine } from '../../src/report.ts';

const url = (path: string) => JSON.stringify(fileURLToPath(new URL(`../../src/${path}`, import.meta.url)));

/** Reports an error in a process of its own, as the last thing it does. */
function report(error: string, json: boolean, env: Record<string, string> = {}) {
  const script = `import { HpcsError } from ${url('errors.ts')}; import { asHpcsError, reportError } from ${url('report.ts')};
    reportError(asHpcsError(${error}, 'hpcs x'), { json: ${json} });`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    env,
  });
  return { status, stdout, stderr };
}

describe('reported errors', () => {
  it('are a fact, the next step and an exit code', () => {
    assert.deepEqual(
      report(`new HpcsError('site', 'x', 'the disk is full', { suggestion: 'make room', cause: new Error('inner') })`, false),
      {
        status: 5,
        stdout: '',
        stderr: 'hpcs: error: the disk is full\n  make room\n',
      },
    );
  });

  it('are a record on standard output with --json', () => {
    const { status, stdout, stderr } = report(
      `new HpcsError('site', 'disk-full', 'the disk is full', { suggestion: 'make room' })`,
      true,
    );
    assert.deepEqual(JSON.parse(stdout), {
      error: { code: 'disk-full', kind: 'site', message: 'the disk is full', suggestion: 'make room' },
    });
    assert.deepEqual([status, stderr], [5, 'hpcs: error: the disk is full\n  make room\n']);
  });

  it('have the stack where the bug was made, and for others with DEBUG only', () => {
    const bug = report(`new TypeError('x is undefined')`, false);
    assert.equal(bug.status, 1);
    assert.match(bug.stderr, /^hpcs: error: x is undefined\nTypeError: x is undefined\n +at .*\n/);
    const debug = report(`new HpcsError('site', 'x', 'y', { cause: new Error('inner') })`, false, { DEBUG: 'hpcs' });
    assert.match(debug.stderr, /^hpcs: error: y\nHpcsError: y\n +at [^]*caused by: inner\n$/);
  });

  it('do not steer the terminal', () => {
    const { stdout } = report(`new HpcsError('site', 'x', 'a\\u001b\\u009b\\u007f\\u0080')`, true);
    assert.match(stdout, /"a\\u001b\\u009b\\u007f\\u0080"/);
    const { stderr } = report(`new HpcsError('site', 'x', 'a\\u001b[2J\\u009bb\\r\\nc\\td')`, false);
    assert.equal(stderr, 'hpcs: error: a?[2J?b?\nc\td\n');
  });

  it('quote others without what could steer the terminal, on a line where they stand within one', () => {
    const said = 'a\u001b[2J\u009bb\n\tsøk';
    assert.equal(printable(said), 'a?[2J?b\n\tsøk');
    assert.equal(printableLine(said, 11), 'a?[2J?b??sø');
  });

  it('of oclif are errors of usage, in our form', () => {
    const oclif = (message: string) => asHpcsError(Object.assign(new Error(message), { oclif: { exit: 2 } }), 'hpcs job results');
    const error = oclif('Nonexistent flag: --bogus\nSee more help with --help');
    assert.deepEqual(
      [error.exitCode, error.message, error.suggestion],
      [2, 'nonexistent flag: --bogus', 'see hpcs job results --help'],
    );
    assert.equal(
      oclif('The following errors occurred:\n  Missing required flag a\n  Missing required flag b\nSee more help with --help')
        .message,
      'missing required flag a; missing required flag b',
    );
    assert.equal(
      oclif('Missing 1 required arg:\njob  job id\nSee more help with --help').message,
      'missing 1 required arg: job job id',
    );
  });

  it('of the value of a flag name it, without what oclif says around them', () => {
    const error = new HpcsError('usage', 'until-invalid', '"x" is no time', { suggestion: 'write 30d' });
    error.message = `Parsing --grant-until \n\t${error.message}\nSee more help with --help`;
    const { code, message, suggestion } = asHpcsError(error, 'hpcs x');
    assert.deepEqual([code, message, suggestion], ['until-invalid', '--grant-until: "x" is no time', 'write 30d']);
  });

  it('are passed on where they are ours', () => {
    const ours = new HpcsError('job', 'x', 'y');
    assert.equal(asHpcsError(ours, 'x'), ours);
    assert.deepEqual([asHpcsError('text', 'x').kind, asHpcsError('text', 'x').message], ['bug', 'text']);
  });
});

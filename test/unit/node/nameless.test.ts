import assert from 'node:assert/strict';
import { HpcsError } from '../../../src/errors.ts';
import { nameless } from '../../../src/node/nameless.ts';

describe('errors for the job log', () => {
  const name = 'patient-4711';
  const system = (code: string): Error => Object.assign(new Error(`${code}: '/srv/${name}'`), { code });

  it('say the code and no name, whatever went wrong with confidential files', () => {
    const cases: [thrown: unknown, exit: number, code: string, message: string][] = [
      [
        new HpcsError('local', 'unreadable', `cannot read ${name}`, { suggestion: name }),
        5,
        'unreadable',
        'sealing failed: unreadable',
      ],
      [
        new HpcsError('integrity', 'archive-unsafe', `${name} occurs twice`),
        7,
        'archive-unsafe',
        'sealing failed: archive-unsafe',
      ],
      [new HpcsError('local', 'unreadable', name, { cause: system('ESTALE') }), 5, 'unreadable', 'sealing failed: ESTALE'],
      [system('EIO'), 5, 'node-failed', 'sealing failed: EIO'],
      [new TypeError(name), 1, 'bug', 'sealing failed: TypeError'],
      [name, 1, 'bug', 'sealing failed: unknown error'],
    ];
    for (const [thrown, exit, code, message] of cases) {
      const error = nameless('sealing', thrown);
      assert.deepEqual([error.exitCode, error.code, error.message], [exit, code, message]);
      assert.doesNotMatch(`${error.stack}${error.suggestion}${String(error.cause)}`, /4711/);
    }
  });

  it('say that there is no room, in whichever words it was said', () => {
    for (const thrown of [system('ENOSPC'), system('EDQUOT'), new HpcsError('local', 'disk-full', `no space for ${name}`)]) {
      const error = nameless('unpacking', thrown);
      assert.deepEqual([error.exitCode, error.code], [5, 'node-disk-full']);
      assert.match(error.message, /^unpacking: no space left/);
    }
  });

  it('are about what failed first, not about cleaning up after it', () => {
    assert.equal(nameless('sealing', new SuppressedError(system('EBUSY'), system('EIO'))).message, 'sealing failed: EIO');
  });

  it('stay as they are where they are about sealed data, which names nothing', () => {
    const error = new HpcsError('integrity', 'truncated', 'the sealed data ends too early');
    assert.equal(nameless('decrypting', error), error);
  });
});

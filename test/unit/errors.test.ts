import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { exitCodes, firstError, HpcsError, messageOf, systemCode } from '../../src/errors.ts';

describe('errors', () => {
  it('have the exit code of their kind', () => {
    assert.deepEqual(exitCodes, { bug: 1, usage: 2, local: 3, identity: 4, site: 5, job: 6, integrity: 7, interrupted: 130 });
    for (const kind of Object.keys(exitCodes) as (keyof typeof exitCodes)[])
      assert.equal(new HpcsError(kind, 'x', 'x').exitCode, exitCodes[kind]);
  });

  it('may carry the exit code of an application', () => {
    assert.equal(new HpcsError('job', 'application-failed', 'x', { exitCode: 137 }).exitCode, 137);
  });

  it('have a JSON form without cause and stack', () => {
    const error = new HpcsError('site', 'host-key-unknown', 'the host key is not known', {
      suggestion: 'see ssh-keyscan',
      cause: new Error('inner'),
    });
    assert.deepEqual(JSON.parse(JSON.stringify(error)), {
      error: { code: 'host-key-unknown', kind: 'site', message: 'the host key is not known', suggestion: 'see ssh-keyscan' },
    });
    assert.deepEqual(JSON.parse(JSON.stringify(new HpcsError('bug', 'bug', 'x'))), {
      error: { code: 'bug', kind: 'bug', message: 'x' },
    });
  });

  it('have what was done all the same beside them in their JSON form', () => {
    const error = new HpcsError('job', 'job-failed', 'x', { result: { jobId: '17' } });
    assert.deepEqual(JSON.parse(JSON.stringify(error)), {
      error: { code: 'job-failed', kind: 'job', message: 'x' },
      result: { jobId: '17' },
    });
  });

  it('are the one that came first, not what failed while cleaning up', async () => {
    const failed = async (): Promise<void> => {
      await using _first = { [Symbol.asyncDispose]: () => Promise.reject(new Error('clean-up')) };
      await using _second = { [Symbol.asyncDispose]: () => Promise.reject(new Error('clean-up too')) };
      throw new Error('cause');
    };
    assert.equal(messageOf(firstError(await failed().catch((error: unknown) => error))), 'cause');
    assert.equal(firstError('text'), 'text');
  });

  it('tell what was thrown, whatever it was', async () => {
    assert.deepEqual([messageOf(new Error('a')), messageOf('b'), messageOf(undefined)], ['a', 'b', 'undefined']);
    assert.equal(systemCode(await readFile('/nonexistent').catch((error: unknown) => error)), 'ENOENT');
    for (const other of [new Error('a'), { code: 'ENOENT' }, Object.assign(new Error('a'), { code: 23 }), null])
      assert.equal(systemCode(other), undefined);
  });
});

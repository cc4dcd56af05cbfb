import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { render, scriptCases } from '../support/script-cases.ts';

describe('batch script', () => {
  for (const [name, job] of Object.entries(scriptCases)) {
    it(`is clean for shellcheck: ${name}`, () => {
      // SC2016: a dollar sign in single quotes is exactly what keeps hostile values from being expanded.
      const { status, stdout, error } = spawnSync('shellcheck', ['--shell=bash', '--exclude=SC2016', '-'], {
        input: render(job),
        encoding: 'utf8',
      });
      assert.ifError(error);
      assert.deepEqual([status, stdout], [0, '']);
    });
  }
});

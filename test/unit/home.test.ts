import assert from 'node:assert/strict';
import { accountHome, standInForAccount } from '../../src/home.ts';

describe('what stands in for an account', () => {
  it('takes the place of HOME and SHELL that are missing or empty', () => {
    for (const env of [{}, { HOME: '', SHELL: '' }] as NodeJS.ProcessEnv[]) {
      standInForAccount(env);
      assert.deepEqual(env, { HOME: accountHome() ?? '/', SHELL: '/bin/sh' });
    }
  });

  it('leaves what is there', () => {
    const env = { HOME: '/home/alice', SHELL: '/bin/tcsh' };
    standInForAccount(env);
    assert.deepEqual(env, { HOME: '/home/alice', SHELL: '/bin/tcsh' });
  });
});

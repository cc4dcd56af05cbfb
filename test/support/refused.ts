import assert from 'node:assert/strict';
import type { HpcsError } from '../../src/errors.ts';

/** For `assert.rejects`: an error of ours with this code, whose message matches. */
export const refused =
  (code: string, message = /./) =>
  (error: HpcsError): true => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };

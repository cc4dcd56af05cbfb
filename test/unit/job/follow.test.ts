import assert from 'node:assert/strict';
import { goesOn, jobFailed } from '../../../src/job/follow.ts';

describe('the error of a job that was submitted', () => {
  it('names it, and how it ended, for programs, too', () => {
    const end = { state: 'FAILED', exitCode: 3, ran: true };
    const failed = jobFailed('17', end);
    assert.equal(failed.exitCode, 3);
    assert.deepEqual(failed.toJSON()['result'], { jobId: '17', ...end });
    assert.deepEqual(goesOn('17', { awaited: false }).toJSON()['result'], { jobId: '17' });
  });
});

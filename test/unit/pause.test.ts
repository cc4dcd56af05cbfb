import assert from 'node:assert/strict';
import { pause } from '../../src/pause.ts';

describe('a pause', () => {
  it('ends by itself, before its time with an error, or early without one', async () => {
    await pause(1, undefined);
    await pause(1, new AbortController().signal);
    const reason = new Error('interrupted');
    await assert.rejects(pause(60_000, AbortSignal.abort(reason)), reason);
    const later = new AbortController();
    const paused = assert.rejects(pause(60_000, later.signal), reason);
    later.abort(reason);
    await paused;
    await pause(60_000, new AbortController().signal, AbortSignal.abort());
  });
});

import assert from 'node:assert/strict';
import { linesOf } from '../../src/lines.ts';
import { inPieces } from '../support/streams.ts';

describe('lines', () => {
  const read = (text: string, unended: boolean, size = 1): Promise<string[]> =>
    Array.fromAsync(linesOf(inPieces(Buffer.from(text), [size]), { unended }));

  it('are what stands between line ends, however the bytes come', async () => {
    for (const size of [1, 2, 100]) assert.deepEqual(await read('é\n\n☃ b\n', false, size), ['é', '', '☃ b']);
  });

  it('are given without an end only where that is asked for: half an answer may say something else', async () => {
    assert.deepEqual(await read('ok 12\nok 1', false), ['ok 12']);
    assert.deepEqual(await read('ok 12\nok 1', true), ['ok 12', 'ok 1']);
    assert.deepEqual(await read('', true), []);
  });
});

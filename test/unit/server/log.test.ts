import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { counted } from '../../../src/server/log.ts';
import { Metrics } from '../../../src/server/metrics.ts';
import { lonelyApi } from '../../support/api.ts';

describe('the log of the server', () => {
  it('counts each line that could not be written, and goes on', async () => {
    const lines: string[] = [];
    let full = false;
    const stream = new Writable({
      autoDestroy: false,
      decodeStrings: false,
      write: (line: string, _encoding, done) => {
        if (!full) lines.push(line);
        done(full ? new Error('ENOSPC') : null);
      },
    }).on('error', () => undefined);
    const metrics = new Metrics();
    const app = lonelyApi({ metrics, log: counted(stream, metrics) });
    const failures = async (): Promise<number | undefined> => (await metrics.logFailures.get()).values[0]?.value;
    await app.inject('/api/trust-bundle');
    assert.ok(lines.length > 0);
    assert.equal(await failures(), 0);
    full = true;
    const written = lines.length;
    await app.inject('/api/trust-bundle');
    await app.close();
    assert.equal(lines.length, written);
    assert.ok(((await failures()) ?? 0) >= 1);
  });
});

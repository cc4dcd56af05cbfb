import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseConfig } from '../../../src/config.ts';
import { openIdentity } from '../../../src/identity/client-identity.ts';
import { failsWith } from '../../support/streams.ts';

describe('the identity of a client', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-identity-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  it('is that of the key which the configuration names, or none: nobody is registered in its place', async () => {
    const file = join(directory, 'key.json');
    // Nothing listens there: whoever registers would be told so.
    const text = `[spire-server]\naddress = 127.0.0.1\nport = 1\ntrust-domain = t\n[hpcs-server]\nurl = https://127.0.0.1:1\n[vault]\nurl = https://127.0.0.1:1\n[supercomputer]\naddress = a\nusername = u\n[client]\nstate-directory = ${directory}\n[identity]\nkey-file = ${file}\n`;
    const options = { signal: new AbortController().signal, progress: () => undefined, env: {} };
    const opening = openIdentity(parseConfig(text, 'test.conf'), options);
    await assert.rejects(opening, failsWith('identity', 'not-enrolled'));
    await assert.rejects(opening, { message: `this client is not enrolled: there is no ${file}` });
  });
});

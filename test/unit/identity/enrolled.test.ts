import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HpcsServer } from '../../../src/hpcs.ts';
import { enrol } from '../../../src/identity/enrolled.ts';
import { generateProofKey, thumbprintOf } from '../../../src/identity/proof.ts';
import { Clients } from '../../../src/server/clients.ts';
import { Store } from '../../../src/server/store.ts';
import { lonelyApi } from '../../support/api.ts';
import { refused } from '../../support/refused.ts';
import { SmallVault } from '../../support/small-vault.ts';

describe('enrolling', () => {
  it('takes another key where the one that was begun with was revoked since, and no other time', async () => {
    await using resources = new AsyncDisposableStack();
    const directory = await mkdtemp(join(tmpdir(), 'hpcs-enrol-'));
    resources.defer(() => rm(directory, { recursive: true }));
    const vault = new SmallVault();
    const clients = new Clients(new Store(vault.admin), vault.admin, 'example.org');
    const app = resources.use(lonelyApi({ clients, isOwn: () => true }));
    await app.listen({ host: '127.0.0.1', port: 0 });
    const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
    const server = resources.use(new HpcsServer({ url, allowInsecureHttp: true }));
    const invite = async () => (await clients.invite({ name: 'alice', groups: [], lifetime: 60 })).token;
    const file = join(directory, 'client-key.json');

    // Its answer was lost.
    const key = await generateProofKey();
    const thumbprint = await thumbprintOf(key);
    const lost = await invite();
    const { id } = await clients.enrol(lost, { thumbprint, id: 'x', issuedAt: Date.now() / 1000 });
    await writeFile(`${file}.new`, JSON.stringify(key));
    await clients.revokeKey(thumbprint);

    const enrolled = await enrol(server, await invite(), { file, url });
    assert.equal(enrolled.clientId, id);
    assert.notEqual(await thumbprintOf(enrolled.key), thumbprint);
    assert.deepEqual(await readdir(directory), ['client-key.json']);

    // A token that another key was enrolled with is no reason.
    const other = join(directory, 'other.json');
    await writeFile(`${other}.new`, JSON.stringify(await generateProofKey()));
    await assert.rejects(enrol(server, lost, { file: other, url }), refused('hpcs-forbidden', /was used already/));
    assert.deepEqual(await readdir(directory), ['client-key.json', 'other.json.new']);
  });
});

import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateProofKey } from '../../../src/identity/proof.ts';
import { AnsweringServer } from '../../support/answering-server.ts';
import type { CliExit } from '../../support/cli.ts';
import { hpcsInProcess as hpcs } from '../../support/in-process.ts';

const secret = 'client_0123456af/data-x';

describe('hpcs access destroy', () => {
  let directory: string;
  let server: AnsweringServer;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-destroy-'));
    server = await AnsweringServer.start();
    await writeFile(join(directory, 'hpcs.conf'), server.configuration(directory));
    const enrolled = { version: 1, server: 's', trustDomain: 't', clientId: '0123456af', spiffeId: 's', name: 'alice' };
    await writeFile(join(directory, 'client-key.json'), JSON.stringify({ ...enrolled, key: await generateProofKey() }));
    server.answer('/api/capabilities', { capabilities: ['access'] });
    server.answer('/api/access/list', { artefacts: [{ secret_path: secret, grants: [], readers: [] }] });
    server.answer('/api/access/destroy');
  });
  afterEach(async () => {
    await server[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  const destroy = (...more: string[]): Promise<CliExit> =>
    hpcs(['access', 'destroy', secret, '--config', join(directory, 'hpcs.conf'), ...more], {
      env: { HPCS_STATE_DIR: directory },
    });
  const reached = (): boolean => server.asked.includes('/api/access/destroy');

  it('completes what was interrupted after the key was destroyed, and says that there was none', async () => {
    server.refuse('/api/access/list', 404, `the vault holds no secret ${secret}`);
    const { code, stdout, stderr } = await destroy('--yes');
    // A name that was mistyped is not to look like a key that is gone.
    assert.deepEqual([code, stdout, reached()], [4, '', true], stderr);
    assert.match(
      stderr,
      /the vault holds no key of client_0123456af\/data-x; what was left of its readers and grants is removed/,
    );
  });

  it('destroys nothing where the server refuses, or nobody confirms it', async () => {
    assert.equal((await destroy()).code, 2);
    server.refuse('/api/access/list', 403, 'not yours');
    assert.equal((await destroy('--yes')).code, 4);
    assert.equal(reached(), false);
  });

  it('destroys nothing unasked where a proxy answers in place of the server, which may hold the key', async () => {
    server.answers.set('/api/access/list', { status: 404, body: 'default backend - 404' });
    const { code, stderr } = await destroy();
    assert.deepEqual([code, reached()], [2, false], stderr);
    assert.match(stderr, /nothing was destroyed, since nobody confirmed it/);
  });

  it('destroys what there is', async () => {
    const { code, stdout, stderr } = await destroy('--yes');
    assert.deepEqual([code, stdout, reached()], [0, `destroyed the key of ${secret}\n`, true], stderr);
    assert.doesNotMatch(stderr, /holds no key/);
  });
});

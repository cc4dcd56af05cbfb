import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Config } from '../../../src/config.ts';
import { endIfOver, endJob, type EndContext } from '../../../src/job/end.ts';
import { JobStore, type JobRecord } from '../../../src/job/store.ts';
import { Secret } from '../../../src/secret.ts';
import { LocalTransport } from '../../support/local-transport.ts';

describe('the end of a job', () => {
  let directory: string;
  let store: JobStore;
  let stale: JobRecord;
  let warnings: string[];
  const alarm = 'ALARM: somebody else had it';

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-end-'));
    store = new JobStore(directory);
    warnings = [];
    stale = {
      version: 1, local: '0'.repeat(32), jobId: '7', site: 's', username: 'u', name: 'n', workdir: '/w', created: '', image: { sha512: '' }, data: { sha512: '' }, format: 'openpgp',
      ticket: { hash: 'h', file: join(directory, 'ticket') }, resultKey: new Secret('k'), authenticationKey: new Secret('0'.repeat(64)),
    }; // prettier-ignore
  });
  afterEach(() => rm(directory, { recursive: true }));

  // No server is named: whoever asks one is warned of it.
  const context = (): EndContext => ({
    config: { client: { 'state-directory': directory } } as Config,
    transport: new LocalTransport(),
    signal: new AbortController().signal,
    warn: (line) => void warnings.push(line),
  });
  const end = (): Promise<void> => endJob(stale, { ...context(), ran: true });
  const save = (ended: NonNullable<NonNullable<JobRecord['ticket']>['ended']>): Promise<void> =>
    store.save({ ...stale, ticket: { hash: 'h', file: join(directory, 'ticket'), ended } });
  const saved = async () => (await store.find('7', 's')).ticket?.ended;

  it('is what another process has made of it: an alarm that it saw is told, and kept', async () => {
    await save({ alarm });
    await end();
    assert.deepEqual([warnings, await saved()], [[alarm], { alarm }]);
  });

  it('does not depend on what else lies in the state directory', async () => {
    await save({ alarm });
    await writeFile(join(directory, 'jobs/other.json'), '{"trunc');
    await end();
    assert.deepEqual(warnings, [alarm]);
  });

  it('fails nothing where it cannot be looked up or noted', async () => {
    await writeFile(join(directory, 'jobs'), 'no directory');
    stale = { ...stale, ticket: { hash: 'h', file: join(directory, 'ticket'), ended: { alarm, left: true } } };
    await writeFile(join(directory, 'ticket'), '');
    await end();
    assert.match(warnings.join('\n'), /^ALARM.*\nthat the identity of job 7 was ended cannot be noted: cannot write /);
    assert.equal(existsSync(join(directory, 'ticket')), false);
  });

  it('is not there yet where the server was not told', async () => {
    await store.save(stale);
    await end();
    assert.match(warnings.join(), /^the identity of job 7 could not be ended now/);
    assert.equal(await saved(), undefined);
  });

  it('leaves nothing on the site, and tries again where something stayed', async () => {
    await save({ alarm, left: true });
    // What is a directory cannot be removed as a file.
    await mkdir(join(directory, 'ticket'));
    await end();
    assert.match(
      warnings.join('\n'),
      /^ALARM.*\nwhat job 7 needed to start is not removed from the site: .*; hpcs job status 7 tries again$/,
    );
    assert.deepEqual(await saved(), { alarm, left: true });

    await rm(join(directory, 'ticket'), { recursive: true });
    await writeFile(join(directory, 'ticket'), '');
    warnings = [];
    await end();
    assert.equal(existsSync(join(directory, 'ticket')), false);
    assert.deepEqual([warnings, await saved()], [[alarm], { alarm }]);
  });

  it('is not looked up in vain: a scheduler that does not answer stops nothing', async () => {
    const path = process.env['PATH'];
    const silent = '#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n';
    for (const name of ['sbatch', 'scontrol']) await writeFile(join(directory, name), silent, { mode: 0o755 });
    process.env['PATH'] = `${directory}:${path}`;
    try {
      await endIfOver({ ...stale, jobId: '7' }, context());
    } finally {
      process.env['PATH'] = path;
    }
    assert.match(warnings.join(), /^whether job 7 has ended is not known now, .*: the scheduler does not answer/);
  });
});

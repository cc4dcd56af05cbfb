import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../../../src/config.ts';
import { attendJob, attendToEnd, type AttendContext } from '../../../src/job/attend.ts';
import { formatRequest } from '../../../src/job/connection.ts';
import { JobStore, type JobRecord } from '../../../src/job/store.ts';
import { makeTicket } from '../../../src/job/ticket.ts';
import { Secret } from '../../../src/secret.ts';
import { LocalTransport } from '../../support/local-transport.ts';
import { refused } from '../../support/refused.ts';

describe('a client that attends a job', () => {
  let directory: string;
  let job: JobRecord;
  let context: AttendContext;
  const path = process.env['PATH'];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-attend-'));
    const ticket = makeTicket();
    await writeFile(join(directory, 'request.json'), formatRequest(ticket, '7', `age1${'q'.repeat(58)}`));
    job = {
      version: 1, local: '0'.repeat(32), jobId: '7', site: 's', username: 'u', name: 'n', workdir: '/w', created: '', image: { sha512: '' }, data: { sha512: '' }, format: 'openpgp',
      connection: { directory, ...ticket }, resultKey: new Secret('k'), authenticationKey: new Secret('a'),
    }; // prettier-ignore
    const { signal } = new AbortController();
    const ignore = (): void => undefined;
    // No server is named: whoever asks one fails.
    context = { config: {} as Config, transport: new LocalTransport(), store: new JobStore(directory), signal, progress: ignore, warn: ignore }; // prettier-ignore
    process.env['PATH'] = `${directory}:${path}`;
  });
  afterEach(async () => {
    process.env['PATH'] = path;
    await rm(directory, { recursive: true });
  });

  /** A scheduler that says this of the job. */
  const scheduler = async (state: string): Promise<void> => {
    const said = `JobId=7 JobName=n UserId=u(1) GroupId=u(1) JobState=${state} Reason=None Restarts=0 ExitCode=0:0 StartTime=1 NodeList=n1 StdOut=/o`;
    await writeFile(join(directory, 'sbatch'), '#!/bin/sh\n');
    await writeFile(join(directory, 'scontrol'), `#!/bin/sh\necho asked >> ${directory}/asked\necho '${said}'\n`);
    for (const name of ['sbatch', 'scontrol']) await chmod(join(directory, name), 0o755);
  };
  const asked = (): boolean => existsSync(join(directory, 'asked'));

  for (const state of ['PENDING', 'CONFIGURING', 'POWER_UP_NODE']) {
    it(`raises the alarm for a request that is there while it is ${state}: its script has not begun`, async () => {
      await scheduler(state);
      const before = refused('request-before-start', /ALARM: something asks for the keys of job 7, which has not started/);
      await assert.rejects(attendJob(job, context, new Promise(() => undefined)), before);
      assert.equal(existsSync(join(directory, 'answer.json')), false);
    });
  }

  for (const state of ['COMPLETING', 'SUSPENDED', 'REQUEUED', 'CANCELLED']) {
    it(`gives nothing while it is ${state}`, async () => {
      await scheduler(state);
      const over = Promise.withResolvers<void>();
      const attended = attendJob(job, context, over.promise);
      while (!asked()) await sleep(10);
      over.resolve();
      assert.equal(await attended, false);
      assert.equal(existsSync(join(directory, 'answer.json')), false);
    });
  }

  describe('to its end', () => {
    beforeEach(() => rm(join(directory, 'request.json')));

    it('says that it has ended when it has, or when the scheduler knows it no more', async () => {
      await scheduler('COMPLETED');
      assert.equal(await attendToEnd({ ...job, jobId: '7' }, context), false);
      await writeFile(join(directory, 'scontrol'), '#!/bin/sh\necho Invalid job id specified >&2\nexit 1\n');
      assert.equal(await attendToEnd({ ...job, jobId: '7' }, context), false);
    });

    it('does not take a site that tells nothing for the end', async () => {
      await scheduler('RUNNING');
      await writeFile(join(directory, 'scontrol'), '#!/bin/sh\necho slurm is broken >&2\nexit 1\n');
      await assert.rejects(attendToEnd({ ...job, jobId: '7' }, context), refused('slurm-failed', /slurm is broken/));
    });
  });

  it('asks for its keys while it is RUNNING', async () => {
    await scheduler('RUNNING');
    await assert.rejects(attendJob(job, context, new Promise(() => undefined)), TypeError);
  });
});

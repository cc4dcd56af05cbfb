import assert from 'node:assert/strict';
import { existsSync, rmSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseConfig, type Config } from '../../../src/config.ts';
import { generateProofKey } from '../../../src/identity/proof.ts';
import { attendJob, attendToEnd, removeConnection, type AttendContext } from '../../../src/job/attend.ts';
import { formatRequest, readAnswer } from '../../../src/job/connection.ts';
import { JobStore, type JobRecord } from '../../../src/job/store.ts';
import { makeTicket, type Ticket } from '../../../src/job/ticket.ts';
import { Secret } from '../../../src/secret.ts';
import { connectionLost } from '../../../src/site/ssh-errors.ts';
import { AnsweringServer } from '../../support/answering-server.ts';
import { FailingTransport, isRename } from '../../support/failing-transport.ts';
import { LocalTransport } from '../../support/local-transport.ts';
import { refused } from '../../support/refused.ts';
import { writePrograms } from '../../support/programs.ts';

describe('a client that attends a job', () => {
  let directory: string;
  let job: JobRecord;
  let ticket: Ticket;
  let context: AttendContext;
  const path = process.env['PATH'];
  const key = `age1${'q'.repeat(58)}`;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-attend-'));
    ticket = makeTicket();
    await writeFile(join(directory, 'request.json'), formatRequest(ticket, '7', key));
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
    await writePrograms(directory, { sbatch: '', scontrol: `echo asked >> ${directory}/asked\necho '${said}'` });
  };
  const asked = (): boolean => existsSync(join(directory, 'asked'));

  it('removes what it exchanged with the job, and nothing of others', async () => {
    const place = join(directory, 'connection');
    await removeConnection(new LocalTransport(), place);
    await mkdir(place);
    await writeFile(join(place, 'other'), '');
    await assert.rejects(removeConnection(new LocalTransport(), place), {
      code: 'connection-left',
      suggestion: /what else is in it/,
    });
    await rm(join(place, 'other'));
    await removeConnection(new LocalTransport(), place);
    assert.equal(existsSync(place), false);
  });

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
      await writePrograms(directory, { scontrol: 'echo Invalid job id specified >&2\nexit 1' });
      assert.equal(await attendToEnd({ ...job, jobId: '7' }, context), false);
    });

    it('does not take a site that tells nothing for the end', async () => {
      await scheduler('RUNNING');
      await writePrograms(directory, { scontrol: 'echo slurm is broken >&2\nexit 1' });
      await assert.rejects(attendToEnd({ ...job, jobId: '7' }, context), {
        code: 'slurm-failed',
        message: /slurm is broken/,
        suggestion: /scontrol show job 7 /,
      });
    });
  });

  it('asks for its keys while it is RUNNING', async () => {
    await scheduler('RUNNING');
    await assert.rejects(attendJob(job, context, new Promise(() => undefined)), TypeError);
  });

  describe('and a server', () => {
    let server: AnsweringServer;
    let over: PromiseWithResolvers<void>;
    let warnings: string[];

    beforeEach(async () => {
      await scheduler('RUNNING');
      server = await AnsweringServer.start();
      over = Promise.withResolvers();
      warnings = [];
      const text = `${server.configuration(directory)}client=login\n`;
      const warn = (line: string): void => {
        warnings.push(line);
        // It would try for as long as the job waits.
        if (line.includes('waits meanwhile')) over.resolve();
      };
      context = { ...context, config: parseConfig(text, 'test.conf'), warn };
    });
    afterEach(() => server[Symbol.asyncDispose]());

    const logIn = async (expires: string): Promise<void> => {
      const session = { version: 1, server: 's', trustDomain: 't', clientId: '0123456af', spiffeId: 's', name: 'alice', expires };
      await writeFile(join(directory, 'client-login.json'), JSON.stringify({ ...session, key: await generateProofKey() }));
    };
    const attend = (): Promise<boolean> => attendJob(job, context, over.promise);
    const waits = async (why: RegExp): Promise<void> => {
      assert.equal(await attend(), false);
      assert.match(warnings.join('\n'), why);
      assert.equal(existsSync(join(directory, 'answer.json')), false);
    };

    it('lets it wait while the login has ended, and says what to do', async () => {
      await logIn('2026-01-01T00:00:00.000Z');
      await waits(/^the session of alice ended at 2026-01-01\S*, job 7 waits meanwhile; log in again: hpcs login/);
    });

    it('lets it wait while nobody is logged in, or what was kept of the login cannot be read', async () => {
      await waits(/^nobody is logged in here: .*, job 7 waits meanwhile; log in: hpcs login$/);
      await writeFile(join(directory, 'client-login.json'), '{"trunc');
      over = Promise.withResolvers();
      warnings = [];
      await waits(/^cannot read the key of this client, .*, job 7 waits meanwhile/);
    });

    it('lets it wait while the server knows no such login: the ticket was not shown', async () => {
      await logIn('2999-01-01T00:00:00.000Z');
      server.refuse('/api/client/token', 401, 'not you');
      await waits(/refused \(401\): not you, job 7 waits meanwhile; log in \(hpcs login\)/);
    });

    it('lets it wait while the server cannot answer', async () => {
      await logIn('2999-01-01T00:00:00.000Z');
      server.refuse('/api/jobs/redeem', 503, 'not you');
      await waits(/refused \(503\): not you, job 7 waits meanwhile/);
    });

    for (const [status, code] of [
      [403, 'hpcs-forbidden'],
      [422, 'record-mismatch'],
    ] as const) {
      it(`tells it what the server refused: ${code}`, async () => {
        await logIn('2999-01-01T00:00:00.000Z');
        server.refuse('/api/jobs/redeem', status, 'not you');
        await new JobStore(directory).save(job);
        assert.equal(await attend(), true);
        const answer = await readFile(join(directory, 'answer.json'), 'utf8');
        assert.throws(() => readAnswer(ticket, '7', key, answer), refused(code, /not you/));
        assert.match(warnings.join('\n'), /^job 7 gets no keys: .*not you$/);
      });
    }

    /** Has the job ask in a directory of its own, which can go. */
    const moveConnection = async (): Promise<string> => {
      const place = join(directory, 'connection');
      await mkdir(place);
      await rename(join(directory, 'request.json'), join(place, 'request.json'));
      job = { ...job, connection: { directory: place, ...ticket } };
      return place;
    };

    it('leaves the answer that it has, though the connection is lost before it hears so', async () => {
      await logIn('2999-01-01T00:00:00.000Z');
      server.refuse('/api/jobs/redeem', 403, 'not you');
      await new JobStore(directory).save(job);
      let cuts = 1;
      const lost = { error: connectionLost('h', undefined), done: true };
      context.transport = new FailingTransport((script) => (isRename(script) && cuts-- > 0 ? lost : undefined));
      assert.equal(await attend(), true);
      assert.ok(existsSync(join(directory, 'answer.json')));
      assert.match(warnings.join('\n'), /trying for \d+ s to go on/);
    });

    it('takes it for brought where the job has taken it by then, and removed the directory', async () => {
      await logIn('2999-01-01T00:00:00.000Z');
      server.refuse('/api/jobs/redeem', 403, 'not you');
      const place = await moveConnection();
      await new JobStore(directory).save(job);
      let cuts = 1;
      context.transport = new FailingTransport((script) => {
        if (!isRename(script) || cuts-- === 0) return undefined;
        rmSync(place, { recursive: true });
        return { error: connectionLost('h', undefined) };
      });
      assert.equal(await attend(), true);
      const [file = ''] = await readdir(join(directory, 'jobs'));
      assert.match(await readFile(join(directory, 'jobs', file), 'utf8'), /"answered":"/);
    });

    it('gives up on a job that has gone before it could be answered', async () => {
      await logIn('2999-01-01T00:00:00.000Z');
      server.refuse('/api/jobs/redeem', 403, 'not you');
      const place = await moveConnection();
      context.transport = new FailingTransport((script) => {
        if (isRename(script)) {
          rmSync(place, { recursive: true });
          over.resolve();
        }
        return undefined;
      });
      assert.equal(await attend(), false);
    });
  });
});

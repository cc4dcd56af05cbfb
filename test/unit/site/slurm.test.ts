import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  isFinal,
  jobState,
  parseJobId,
  parseSacct,
  parseScontrol,
  parseTimeLimit,
  secondsOf,
  stageOf,
  waitForEnd,
  willNotStart,
} from '../../../src/site/slurm.ts';
import type { Transport } from '../../../src/site/transport.ts';
import { LocalTransport } from '../../support/local-transport.ts';

// As Slurm 26.05.5 prints it for a job with a hostile name and comment.
const ended =
  'JobId=1 JobName=my job JobState=RUNNING UserId=alice(2001) GroupId=alice(2001) MCS_label=N/A Priority=1 Nice=0 Account=(null) QOS=(null) JobState=FAILED Reason=NonZeroExitCode Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=3:0 RunTime=00:00:03 TimeLimit=01:00:00 TimeMin=N/A SubmitTime=1795351859 EligibleTime=1795351859 AccrueTime=1795351859 StartTime=1795351860 EndTime=1795351863 Deadline=N/A SuspendTime=None SecsPreSuspend=0 LastSchedEval=1795351860 Scheduler=Main Partition=standard AllocNode:Sid=nid000001:109 ReqNodeList=(null) ExcNodeList=(null) NodeList=nid[000001-000002] BatchHost=nid000001 NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:* ReqTRES=cpu=1,mem=4000M,node=1,billing=1 AllocTRES=cpu=1,node=1,billing=1 Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=* MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0 Features=(null) DelayBoot=00:00:00 OverSubscribe=NO Exclusive=NO Contiguous=0 Licenses=(null) LicensesAlloc=(null) Network=(null) Command=(null) SubmitLine=sbatch --parsable WorkDir=/home/alice Comment=a b ExitCode=1:1 StdErr= StdIn=/dev/null StdOut=/scratch/alice/with space/x1.out';
const waiting =
  'JobId=7 JobName=sbatch UserId=alice(2001) GroupId=alice(2001) MCS_label=N/A Priority=1 Nice=0 Account=(null) QOS=(null) JobState=PENDING Reason=Resources Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:00:00 TimeLimit=1-00:00:00 TimeMin=N/A SubmitTime=2026-11-22T12:51:06 EligibleTime=2026-11-22T12:51:06 AccrueTime=Unknown StartTime=Unknown EndTime=Unknown Deadline=N/A Partition=standard ReqNodeList=(null) ExcNodeList=(null) NodeList= NumNodes=1 Command=(null) WorkDir=/home/alice StdErr= StdIn=/dev/null StdOut=/home/alice/slurm-7.out';

describe('Slurm', () => {
  it('reads a job that ended, whatever its name and comment hold', () => {
    assert.deepEqual(parseScontrol(ended), {
      state: 'FAILED',
      exitCode: 3,
      signal: 0,
      reason: 'NonZeroExitCode',
      startTime: new Date('2026-11-22T12:51:00Z'),
      nodes: 'nid[000001-000002]',
      stdoutPath: '/scratch/alice/with space/x1.out',
      restarts: 2,
    });
  });

  it('reads a job that waits', () => {
    assert.deepEqual(parseScontrol(waiting), {
      state: 'PENDING',
      exitCode: 0,
      signal: 0,
      reason: 'Resources',
      nodes: '',
      stdoutPath: '/home/alice/slurm-7.out',
      restarts: 0,
    });
    assert.equal(parseScontrol(waiting.replace('NodeList= ', 'NodeList=(null) ')).nodes, '');
  });

  it('reads a job that a signal ended', () => {
    const { exitCode, signal } = parseScontrol(ended.replace('ExitCode=3:0', 'ExitCode=0:9'));
    assert.deepEqual({ exitCode, signal }, { exitCode: 0, signal: 9 });
  });

  it('reads what the accounting keeps', () => {
    assert.deepEqual(parseSacct('CANCELLED by 2001|0:15|1795351860|nid000001|None'), {
      state: 'CANCELLED',
      exitCode: 0,
      signal: 15,
      reason: 'None',
      startTime: new Date('2026-11-22T12:51:00Z'),
      nodes: 'nid000001',
      stdoutPath: '',
      restarts: 0,
    });
    const waits = parseSacct('PENDING|0:0|Unknown|None assigned|');
    assert.deepEqual([waits.state, waits.nodes, waits.reason, waits.startTime], ['PENDING', '', 'None', undefined]);
  });

  it('is asked again for the end of a job where the site ended the question', async () => {
    const answers = [
      { code: null, said: '' },
      { code: 137, said: '' },
      { code: 0, said: `scontrol\n${ended}\n` },
    ];
    const exec = () => {
      const { code, said } = answers.shift() ?? assert.fail('asked once more');
      return { stdout: [Buffer.from(said)], finished: Promise.resolve({ code, stderr: '' }) };
    };
    const { state } = await waitForEnd({ exec } as unknown as Transport, '1', { interval: { first: 1, longest: 1 } });
    assert.equal(state, 'FAILED');
  });

  for (const killed of ['scontrol', 'sacct']) {
    it(`does not take ${killed}, ended by a signal, for an answer`, async () => {
      const directory = await mkdtemp(join(tmpdir(), 'hpcs-slurm-'));
      const path = process.env['PATH'];
      process.env['PATH'] = `${directory}:${path}`;
      try {
        for (const name of ['sbatch', 'scontrol', 'sacct']) {
          const said = name === 'scontrol' ? 'echo Invalid job id specified >&2; exit 1' : '';
          await writeFile(join(directory, name), `#!/bin/sh\n${name === killed ? 'kill -9 $$' : said}\n`, { mode: 0o755 });
        }
        await assert.rejects(jobState(new LocalTransport(), '7'), { code: 'slurm-cut-short' });
      } finally {
        process.env['PATH'] = path;
        await rm(directory, { recursive: true });
      }
    });
  }

  it('knows for what a job waits in vain', () => {
    for (const reason of [
      'PartitionTimeLimit',
      'PartitionNodeLimit',
      'InvalidAccount',
      'JobHeldUser',
      'BadConstraints',
      'AssocMaxCpuPerJobLimit',
      'QOSMaxWallDurationPerJobLimit',
      'QOSMaxNodePerJobLimit',
    ])
      // prettier-ignore
      assert.ok(willNotStart({ state: 'PENDING', reason }), reason);
    for (const reason of [
      'None',
      'Priority',
      'Resources',
      'PartitionDown',
      'AssocGrpCPUMinutesLimit',
      'QOSMaxJobsPerUserLimit',
      'BeginTime',
    ])
      // prettier-ignore
      assert.ok(!willNotStart({ state: 'PENDING', reason }), reason);
    assert.ok(!willNotStart({ state: 'RUNNING', reason: 'PartitionTimeLimit' }));
  });

  it('takes the job id from what sbatch prints', () => {
    assert.equal(parseJobId('123\n'), '123');
    assert.equal(parseJobId('123;cluster\n'), '123');
    assert.equal(parseJobId('note from a plugin\n4711;lumi\n'), '4711');
    for (const text of ['', 'Submitted batch job', '12 34', 'x12', '-1'])
      assert.throws(() => parseJobId(text), { code: 'no-job-id' });
  });

  it('knows which states are the end', () => {
    for (const state of ['COMPLETED', 'FAILED', 'TIMEOUT', 'CANCELLED', 'OUT_OF_MEMORY', 'NODE_FAIL', 'PREEMPTED'])
      assert.ok(isFinal(state), state);
    for (const state of ['PENDING', 'RUNNING', 'COMPLETING', 'CONFIGURING', 'SUSPENDED', 'REQUEUED', 'UNKNOWN'])
      assert.ok(!isFinal(state), state);
  });

  it('knows in which states a script runs, and in which it cannot have begun', () => {
    for (const state of ['PENDING', 'CONFIGURING', 'POWER_UP_NODE']) assert.equal(stageOf(state), 'early', state);
    assert.equal(stageOf('RUNNING'), 'running');
    for (const state of [
      'COMPLETING',
      'SUSPENDED',
      'STOPPED',
      'REQUEUED',
      'REQUEUE_HOLD',
      'CANCELLED',
      'COMPLETED',
      'UNKNOWN',
      '',
    ])
      assert.equal(stageOf(state), 'other', state);
  });

  it('takes every form of time limit that sbatch takes', () => {
    for (const text of ['10', '10:30', '00:60:00', '00:00:30', '1-0', '1-12:30', '1-12:30:15', '100:00:00'])
      assert.equal(parseTimeLimit(text), text);
    assert.equal(parseTimeLimit('"00:60:00"'), '00:60:00');
    assert.equal(parseTimeLimit(" '00:60:00' "), '00:60:00');
    assert.equal(parseTimeLimit('unlimited'), 'UNLIMITED');
    for (const text of ['', '0', '00:00:00', '1h', '1:2:3:4', '-1', '1-', 'now', '10\n#SBATCH --uid=0', '"10', '1-2:3:4:5'])
      assert.throws(() => parseTimeLimit(text), { code: 'bad-time-limit', exitCode: 2 }, text);
  });

  it('knows how long each form of time limit is', () => {
    const [minute, hour, day] = [60, 3600, 86_400];
    for (const [text, seconds] of [
      ['10', 10 * minute],
      ['10:30', 10 * minute + 30],
      ['00:60:00', hour],
      ['00:00:30', 30],
      ['100:00:00', 100 * hour],
      ['1-0', day],
      ['1-12:30', day + 12 * hour + 30 * minute],
      ['1-12:30:15', day + 12 * hour + 30 * minute + 15],
      ['UNLIMITED', Infinity],
    ] as const)
      assert.equal(secondsOf(text), seconds, text);
  });
});

import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CliExit } from '../support/cli.ts';
import { jobArguments, openJob, prepareData, prepareImage, probe, resultText } from '../support/jobs.ts';
import { Site } from '../support/site.ts';

describe('job commands on a real site', function () {
  this.timeout(300_000);
  let site: Site;
  let jobId = '';
  let submitted: Promise<CliExit>;

  before(async () => {
    site = await Site.open();
    await site.image('hpcs-test/probe', { Dockerfile: 'FROM debian:bookworm-slim\nCOPY probe /probe\nENTRYPOINT ["/probe"]\nCMD ["default"]\n', probe }); // prettier-ignore
    const image = await prepareImage(site, 'hpcs-test/probe');
    const input = join(site.temporary, 'input');
    await mkdir(input);
    await writeFile(join(input, 'hello.txt'), 'hello\n');
    const data = await prepareData(site, input);
    const started = new Promise<void>((resolve, reject) => {
      const onStderr = (text: string): void => {
        jobId = /job (\d+) on/.exec(text)?.[1] ?? '';
        if (text.includes('application: starting')) resolve();
      };
      submitted = site.hpcs(jobArguments(site, image, data, ['--json', '--', 'sleep', '280']), { onStderr });
      submitted.then((exit) => reject(new Error(`the job ended: ${exit.stderr}`)), reject);
    });
    await started;
    // The eight bytes that the probe writes first are 58 in the volume.
    const found = `[ -n "$(find ${site.scratch}/test-${jobId}/output.volume -size 58c)" ]`;
    assert.equal((await site.run(`for i in $(seq 150); do ${found} && exit 0; sleep 0.2; done; exit 1`)).code, 0);
  });
  after(async () => {
    await site[Symbol.asyncDispose]();
  });

  it('show a running job: its state, its log so far, what it has written', async () => {
    assert.notEqual(jobId, '');
    const status = await site.hpcsOk(['job', 'status', jobId]);
    assert.match(status.stdout, new RegExp(`^job ${jobId} \\(test\\): RUNNING\nnodes: nid000001\nresults: partial so far`));
    const logs = await site.hpcsOk(['job', 'logs', jobId]);
    assert.match(logs.stdout, /application: starting\n$/);
    assert.match((await site.hpcsOk(['job', 'list'])).stdout, new RegExp(`^${jobId} .* test$`, 'm'));
    const partial = join(site.temporary, 'partial');
    const opened = await site.hpcsOk(['job', 'results', jobId, '--partial', '--output', partial]);
    assert.match(opened.stderr, /warning: these results are partial, and no manifest covers them/);
    assert.equal(await readFile(join(partial, 'early'), 'utf8'), 'started\n');
    const none = await site.hpcs(['job', 'results', jobId, '--output', join(site.temporary, 'none')]);
    assert.deepEqual([none.code, none.stdout], [6, '']);
    assert.match(none.stderr, new RegExp(`hpcs job results ${jobId} --partial`));
  });

  it('tell of a job that will never start', async () => {
    await site.run('scontrol update PartitionName=standard MaxTime=5', 'root');
    let waiting = '';
    const info = (name: string) => ({ info: `${site.scratch}/${name}.info.yaml` });
    try {
      const exit = await site.hpcs(jobArguments(site, info('hpcs-test-probe.sif'), info('data.tgz'), ['-t', '00:20:00']), {
        onStderr: (text) => {
          if (waiting !== '') return;
          waiting = /hpcs job cancel (\d+) gives it up/.exec(text)?.[1] ?? '';
          if (waiting !== '') void site.hpcs(['job', 'cancel', waiting]);
        },
      });
      assert.match(exit.stderr, /^job \d+ is PENDING \(PartitionTimeLimit\)\nas it stands it will not start/m);
      assert.notEqual(exit.code, 0);
    } finally {
      await site.run('scontrol update PartitionName=standard MaxTime=24:00:00', 'root');
    }
  });

  it('say that a job goes on when the command that follows it is interrupted, and what became of it', async () => {
    const interrupt = new AbortController();
    const info = (name: string) => ({ info: `${site.scratch}/${name}.info.yaml` });
    // The node is taken by the job that runs.
    const args = jobArguments(site, info('hpcs-test-probe.sif'), info('data.tgz'), ['--', 'args']);
    const exit = await site.hpcs([...args.slice(0, 1), '--exclusive', ...args.slice(1)], {
      onStderr: (text) => void (/job \d+ is PENDING/.test(text) && interrupt.abort()),
      signal: interrupt.signal,
    });
    assert.equal(exit.code, 130, exit.stderr);
    const [, id = ''] = /interrupted: job (\d+) goes on\n {2}see how it stands with: hpcs job status \d+; or give it up with: hpcs job cancel \d+\n$/.exec(exit.stderr) ?? []; // prettier-ignore
    assert.match((await site.hpcsOk(['job', 'status', id])).stdout, /PENDING/);
    assert.deepEqual(JSON.parse((await site.hpcsOk(['job', 'cancel', id, '--json'])).stdout), { jobId: id, state: 'CANCELLED', cancelled: true }); // prettier-ignore
    const again = await site.hpcsOk(['job', 'cancel', id]);
    assert.match(again.stdout, new RegExp(`^job ${id} had ended already: CANCELLED\n`));
    const logs = await site.hpcs(['job', 'logs', id]);
    assert.equal(logs.code, 6);
    assert.match(logs.stderr, new RegExp(`job ${id} has ended and left no log`));
  });

  it('take a directory in which nothing can be written for what it is, before anything is submitted', async () => {
    const info = (name: string) => ({ info: `${site.scratch}/${name}.info.yaml` });
    const before = (await site.run('squeue -h -o %i | sort | tail -1')).stdout;
    const listed = (await site.hpcsOk(['job', 'list'])).stdout;
    for (const directory of ['/etc', '/etc/hostname', '/proc/hpcs']) {
      const exit = await site.hpcs(jobArguments(site, info('hpcs-test-probe.sif'), info('data.tgz'), ['-s', directory]));
      assert.equal(exit.code, 5, exit.stderr);
      assert.match(exit.stderr, new RegExp(`cannot make the directory ${directory} on the site`));
    }
    assert.equal((await site.run('squeue -h -o %i | sort | tail -1')).stdout, before);
    assert.equal((await site.hpcsOk(['job', 'list'])).stdout, listed);
  });

  it('cancel it, end following its log, and open what it left', async () => {
    // Whoever can write there must not steer the terminal on which it is shown.
    await site.run(`printf 'a\\033[2Jb\\n' >> ${site.scratch}/test-${jobId}.out`);
    assert.match((await site.hpcsOk(['job', 'logs', jobId])).stdout, /^a\?\[2Jb$/m);
    const following = site.hpcs(['job', 'logs', jobId, '--follow']);
    await site.hpcsOk(['job', 'cancel', jobId]);
    const followed = await following;
    assert.equal(followed.code, 0, followed.stderr);
    assert.match(followed.stdout, /^a\?\[2Jb$/m);
    assert.match(followed.stdout, /application: ended early/);
    assert.match(followed.stderr, new RegExp(`job ${jobId} ended CANCELLED`));
    const ended = await submitted;
    assert.ok(ended.stderr.split('\n').includes(JSON.stringify({ stage: `submitted job ${jobId}` })), ended.stderr);
    const { error, result } = JSON.parse(ended.stdout) as { error: { code: string }; result: { exitCode: number } };
    assert.equal(error.code, 'job-failed');
    assert.deepEqual(result, { jobId, state: 'CANCELLED', exitCode: ended.code, ran: true });
    assert.notEqual(ended.code, 0);
    const status = await site.hpcsOk(['job', 'status', jobId, '--json']);
    const { state, results } = JSON.parse(status.stdout) as { state: { state: string }; results: { content: string } };
    assert.deepEqual([state.state, results.content], ['CANCELLED', 'whole']);
    assert.equal(await resultText(await openJob(site, jobId), 'early'), 'started\n');
    const whole = await site.hpcs(['job', 'results', jobId, '--partial', '--output', join(site.temporary, 'none')]);
    assert.equal(whole.code, 2);
    assert.match(whole.stderr, /the results of job \d+ are whole/);
    await site.hpcsOk(['job', 'cancel', jobId]);
  });
});

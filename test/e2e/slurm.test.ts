import assert from 'node:assert/strict';
import { loadConfig, type Config } from '../../src/config.ts';
import { connect } from '../../src/site/connect.ts';
import { run } from '../../src/site/files.ts';
import { cancel, expandNodes, followLog, jobState, submit, waitForEnd, type JobState } from '../../src/site/slurm.ts';
import type { Transport } from '../../src/site/transport.ts';
import { Site } from '../support/site.ts';

const interval = { first: 200, longest: 500 };

describe('Slurm on the site', function () {
  this.timeout(300_000);
  let site: Site;
  let config: Config;
  let transport: Transport;

  before(async () => {
    site = await Site.open();
    config = await loadConfig(site.configuration);
    transport = await connect(config);
  });
  after(async () => {
    await transport[Symbol.asyncDispose]();
    await site[Symbol.asyncDispose]();
  });

  const script = (body: string, options = ''): string =>
    `#!/bin/sh\n#SBATCH --output=${site.scratch}/%j.out\n#SBATCH --time=00:60:00\n${options}${body}\n`;

  it('takes a script, and its log is followed to the end of the job', async () => {
    const name = '#SBATCH --job-name="a job JobState=FAILED ExitCode=9:9"\n';
    const id = await submit(transport, script('echo "first é"; sleep 2; printf "no newline at the end"; exit 3', name));
    const states: string[] = [];
    const ended = waitForEnd(transport, id, { interval, onState: (state) => states.push(state.state) });
    let log = '';
    await followLog(transport, `${site.scratch}/${id}.out`, {
      until: ended,
      interval,
      onBytes: (bytes) => (log += Buffer.from(bytes).toString('utf8')),
    });
    const state = await ended;
    assert.equal(log, 'first é\nno newline at the end');
    assert.deepEqual([state.state, state.exitCode, state.signal, state.restarts], ['FAILED', 3, 0, 0]);
    assert.equal(state.stdoutPath, `${site.scratch}/${id}.out`);
    assert.equal(states.at(-1), 'FAILED');
    assert.ok(states.includes('RUNNING'), states.join());
    assert.ok(Math.abs((state.startTime?.getTime() ?? 0) - Date.now()) < 120_000, String(state.startTime));
  });

  it('leaves no file of the script on shared storage', async () => {
    const mark = `mark-${Date.now()}`;
    const id = await submit(transport, script(`: ${mark}`));
    assert.equal((await waitForEnd(transport, id, { interval })).state, 'COMPLETED');
    const { stdout } = await run(transport, `grep -rl ${mark} /scratch /home /tmp 2>/dev/null`);
    assert.equal(stdout, '');
  });

  it('delivers a long log without loss, over the ssh program too', async () => {
    await using other = await connect({ ...config, supercomputer: { ...config.supercomputer, transport: 'openssh' } });
    const id = await submit(other, script('seq 1 200000; sleep 1; seq 200001 300000'));
    let size = 0;
    let tail = '';
    await followLog(other, `${site.scratch}/${id}.out`, {
      until: waitForEnd(other, id, { interval }),
      interval,
      onBytes: (bytes) => {
        size += bytes.length;
        tail = (tail + Buffer.from(bytes).toString('latin1')).slice(-20);
      },
    });
    assert.equal(
      size,
      Array.from({ length: 300_000 }, (_, index) => String(index + 1).length + 1).reduce((sum, length) => sum + length, 0),
    );
    assert.ok(tail.endsWith('299999\n300000\n'), tail);
  });

  it('cancels a job, and a job that has ended without complaint', async () => {
    const id = await submit(transport, script('sleep 300'));
    const state = await waitForEnd(transport, id, {
      interval,
      onState: ({ state }) => {
        if (state === 'RUNNING') cancel(transport, id).catch(() => undefined);
      },
    });
    assert.equal(state.state, 'CANCELLED');
    await cancel(transport, id);
  });

  it('stops waiting when told to, and the job goes on', async () => {
    const id = await submit(transport, script('sleep 60'));
    const controller = new AbortController();
    const waiting = waitForEnd(transport, id, {
      interval,
      signal: controller.signal,
      onState: () => controller.abort(new Error('later')),
    });
    await assert.rejects(waiting, /later/);
    assert.match((await jobState(transport, id))?.state ?? '', /PENDING|RUNNING|CONFIGURING/);
    await cancel(transport, id);
  });

  it('says in its own words why it refuses a job', async () => {
    const refusals: Array<[code: string, options: string, words: RegExp]> = [
      ['sbatch-partition', '#SBATCH --partition=nope\n', /sbatch refused the job: .*nvalid partition/],
      ['sbatch-time', '#SBATCH --time=soon\n', /--time/],
      ['sbatch-nodes', '#SBATCH --nodelist=nowhere\n', /node name/],
      ['sbatch-memory', '#SBATCH --mem=999T\n', /Memory/],
    ];
    for (const [code, options, message] of refusals)
      await assert.rejects(submit(transport, `#!/bin/sh\n${options}true\n`), { code, kind: 'job', exitCode: 6, message });
    await assert.rejects(submit(transport, 'true\n'), { code: 'sbatch-refused', message: /batch script/ });
  });

  it('does not know every job', async () => {
    assert.equal(await jobState(transport, '99999999'), undefined);
    await assert.rejects(waitForEnd(transport, '99999999'), { code: 'job-unknown', exitCode: 6 });
    await assert.rejects(jobState(transport, '1; rm -rf /'), { code: 'bad-job-id', exitCode: 2 });
  });

  it('expands lists of nodes', async () => {
    assert.deepEqual(await expandNodes(transport, 'nid[000001-000003],gpu7'), ['nid000001', 'nid000002', 'nid000003', 'gpu7']);
    assert.deepEqual(await expandNodes(transport, 'a,b'), ['a', 'b']);
    await assert.rejects(expandNodes(transport, 'nid[1'), { code: 'bad-node-list', exitCode: 2 });
  });

  it('waits for a scheduler that is away for a moment', async () => {
    const id = await submit(transport, script('sleep 6'));
    const pid = (await site.run('pidof slurmctld', 'root')).stdout.trim();
    const states: JobState[] = [];
    const ended = waitForEnd(transport, id, { interval, onState: (state) => states.push(state) });
    await site.run(`kill ${pid}; for i in $(seq 100); do scontrol ping | grep -q 'is UP' || exit 0; sleep 0.1; done`, 'root');
    await assert.rejects(jobState(transport, id), { code: 'slurm-unreachable', exitCode: 6 });
    await site.run('slurmctld', 'root');
    assert.equal((await ended).state, 'COMPLETED');
  });
});

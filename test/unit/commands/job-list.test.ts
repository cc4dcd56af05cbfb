import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeStatus } from '../../../src/job/status.ts';
import { JobStore, type JobRecord } from '../../../src/job/store.ts';
import { Secret } from '../../../src/secret.ts';
import type { CliExit } from '../../support/cli.ts';
import { hpcsInProcess as hpcs } from '../../support/in-process.ts';

const configuration = `[spire-server]\naddress = a\nport = 1\ntrust-domain = t\n[hpcs-server]\nurl = https://a\n[vault]\nurl = https://b\n[supercomputer]\naddress = site.example\nusername = alice\n`;

describe('hpcs job', () => {
  let state: string;

  const record = (jobId: string | undefined, created: string, name = 'test'): JobRecord => ({
    version: 1,
    local: created.replaceAll(/\D/g, '').padEnd(32, '0').slice(0, 32),
    ...(jobId === undefined ? {} : { jobId }),
    site: 'site.example',
    username: 'alice',
    name,
    workdir: '/scratch/alice',
    created,
    image: { sha512: 'a' },
    data: { sha512: 'b' },
    format: 'age',
    resultKey: new Secret('AGE-SECRET-KEY-1CANARY'),
    authenticationKey: new Secret('ca'.repeat(32)),
  });

  before(async () => {
    state = await mkdtemp(join(tmpdir(), 'hpcs-list-'));
    await writeFile(join(state, 'hpcs-client.conf'), configuration);
  });
  after(() => rm(state, { recursive: true }));

  const run = (...args: string[]): Promise<CliExit> =>
    hpcs(['job', ...args], { env: { HPCS_STATE_DIR: join(state, 'state'), HPCS_CONFIG: join(state, 'hpcs-client.conf') } });

  it('list says so when there are none', async () => {
    const exit = await run('list');
    assert.deepEqual(exit, { code: 0, stdout: '', stderr: 'no jobs were submitted from this state directory\n' });
  });

  it('list does not steer the terminal', async () => {
    const store = new JobStore(join(state, 'hostile'));
    await store.save(record('7', '2026-01-02T03:04:05.678Z', 'a\u001b[2J\u009b2Jb'));
    const env = { HPCS_STATE_DIR: join(state, 'hostile'), HPCS_CONFIG: join(state, 'hpcs-client.conf') };
    assert.match((await hpcs(['job', 'list'], { env })).stdout, / a\?\[2J\?2Jb$/m);
    const { stdout } = await hpcs(['job', 'list', '--json'], { env });
    assert.match(stdout, /"a\\u001b\[2J\\u009b2Jb"/);
    assert.equal((JSON.parse(stdout) as { name: string }[])[0]?.name, 'a\u001b[2J\u009b2Jb');
  });

  it('list shows all jobs, newest first, and no keys', async () => {
    const store = new JobStore(join(state, 'state'));
    await store.save(record('4711', '2026-01-02T03:04:05.678Z'));
    await store.save(record(undefined, '2026-03-02T03:04:05.678Z', 'never-submitted'));
    await store.save(record('99', '2026-02-02T03:04:05.678Z', 'second'));
    const { code, stdout } = await run('list');
    assert.equal(code, 0);
    assert.equal(
      stdout,
      'JOB              CREATED               SITE                NAME\n' +
        '(not submitted)  2026-03-02T03:04:05Z  alice@site.example  never-submitted\n' +
        '99               2026-02-02T03:04:05Z  alice@site.example  second\n' +
        '4711             2026-01-02T03:04:05Z  alice@site.example  test\n',
    );
    const json = await run('list', '--json');
    assert.doesNotMatch(json.stdout, /caca|CANARY/);
    const listed = JSON.parse(json.stdout) as { jobId: string | null }[];
    assert.deepEqual(listed.map((job) => job.jobId), [null, '99', '4711']); // prettier-ignore
  });

  it('list needs no configuration', async () => {
    const env = { HPCS_STATE_DIR: join(state, 'state'), HPCS_CONFIG: '', HOME: state, XDG_CONFIG_HOME: '' };
    const { code, stdout, stderr } = await hpcs(['job', 'list'], { cwd: join(state, 'state'), env });
    assert.deepEqual([code, stderr], [0, '']);
    assert.match(stdout, /^4711 /m);
    const named = await hpcs(['job', 'list', '--config', join(state, 'none')], { env });
    assert.equal(named.code, 2);
  });

  for (const command of ['status', 'logs', 'cancel', 'results']) {
    it(`${command} touches no job that was not submitted from here`, async () => {
      const exit = await run(command, '12345');
      assert.equal(exit.code, 2);
      assert.match(exit.stderr, /job 12345 on site\.example was not submitted from this state directory/);
    });
  }

  it('status is told in words', () => {
    const job = { jobId: '7', name: 'test', workdir: '/w' };
    const state = {
      state: 'FAILED',
      exitCode: 3,
      signal: 0,
      reason: 'NonZeroExitCode',
      nodes: 'n[1-2]',
      stdoutPath: '',
      restarts: 0,
    };
    const results = { directory: '/w/test-7', restart: 0, content: 'whole' } as const;
    assert.deepEqual(describeStatus(job, { state, results }), [
      'job 7 (test): FAILED',
      'nodes: n[1-2]',
      'reason: NonZeroExitCode',
      'exit code: 3',
      'results: ready, open with: hpcs job results 7',
    ]);
    assert.deepEqual(describeStatus(job, { state: null, results: { ...results, content: 'partial' } }), [
      'job 7 (test): no longer known to the scheduler',
      'results: partial so far, open with: hpcs job results 7 --partial',
    ]);
  });
});

import assert from 'node:assert/strict';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { JobStore } from '../../src/job/store.ts';
import { logPath } from '../../src/job/script.ts';
import { Secret } from '../../src/secret.ts';
import { hpcs, type CliExit } from '../support/cli.ts';
import { writePrograms } from '../support/programs.ts';

const full = /^hpcs: error: cannot write to standard output: ENOSPC\n {2}make room where it goes, .*\n$/;

describe('standard output', function () {
  this.timeout(60_000);
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-output-'));
    await writeFile(
      join(directory, 'hpcs-client.conf'),
      '[spire-server]\naddress = a\nport = 1\ntrust-domain = t\n[hpcs-server]\nurl = https://a\n[vault]\nurl = https://b\n[supercomputer]\naddress = site.example\nusername = alice\ntransport = openssh\n',
    );
    const job = { version: 1, local: '0'.repeat(32), jobId: '7', site: 'site.example', username: 'alice', name: 'mine', workdir: directory, created: '2026-01-02T03:04:05.678Z', image: { sha512: 'a' }, data: { sha512: 'b' }, format: 'age', resultKey: new Secret('key'), authenticationKey: new Secret('ca'.repeat(32)) } as const; // prettier-ignore
    await new JobStore(join(directory, 'state')).save(job);
    const log = logPath(directory, job.name, job.jobId);
    await writeFile(log, 'a line of the log\n'.repeat(100_000));
    // A site that is this machine, where the job runs for ever.
    await writePrograms(directory, {
      ssh: 'for last; do :; done\nexec sh -c "$last"',
      sbatch: '',
      scontrol: 'echo "JobId=7 JobName=mine UserId=alice(1) GroupId=alice(1) JobState=RUNNING Reason=None ExitCode=0:0"',
    });
  });
  after(() => rm(directory, { recursive: true }));

  const into = (to: string, ...args: string[]): Promise<CliExit> =>
    hpcs(args, {
      through: ['bash', '-o', 'pipefail', '-c', `"$0" "$@" ${to}`],
      env: {
        HPCS_STATE_DIR: join(directory, 'state'),
        HPCS_CONFIG: join(directory, 'hpcs-client.conf'),
        PATH: `${directory}:${process.env['PATH']}`,
      },
    });

  for (const args of [
    ['job', 'list'],
    ['job', 'list', '--json'],
    ['job', 'list', '--help'],
    ['--version'],
    ['job', 'logs', '7'],
    ['job', 'logs', '7', '--follow'],
  ])
    // prettier-ignore
    it(`of ${args.join(' ')} may be full, which is an error, or be closed, which is none`, async () => {
      const exit = await into('> /dev/full', ...args);
      assert.match(exit.stderr, full);
      assert.equal(exit.code, 3);
      const closed = await into('| true', ...args);
      assert.deepEqual(closed, { code: 0, stdout: '', stderr: '' });
    });

  it('that takes a part only is no success', async () => {
    const text = join(directory, 'text');
    const store = new JobStore(join(directory, 'many'));
    const [job] = await new JobStore(join(directory, 'state')).list();
    assert.ok(job !== undefined);
    for (let count = 10; count < 20; count++) await store.save({ ...job, local: String(count).repeat(16), jobId: String(count) });
    // One write of more than that.
    const exit = await hpcs(['job', 'list', '--json'], {
      through: ['bash', '-c', `ulimit -f 1; "$0" "$@" > ${text}`],
      env: { HPCS_STATE_DIR: join(directory, 'many'), HPCS_CONFIG: join(directory, 'hpcs-client.conf') },
    });
    assert.match(exit.stderr, /^hpcs: error: cannot write to standard output: EFBIG\n/);
    assert.equal(exit.code, 3);
    assert.equal((await stat(text)).size, 1024);
  });

  it('that takes no more hides nothing else that went wrong', async () => {
    const exit = await into('> /dev/full', 'job', 'list', '--bogus', '--json');
    assert.match(exit.stderr, /^hpcs: error: nonexistent flag: --bogus\n {2}see .*\n$/);
    assert.equal(exit.code, 2);
  });
});

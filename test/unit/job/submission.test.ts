import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HpcsError } from '../../../src/errors.ts';
import { submitScript, submitWithTicket, type SubmissionContext } from '../../../src/job/submission.ts';
import { makeTicket } from '../../../src/job/ticket.ts';
import { LocalTransport } from '../../support/local-transport.ts';
import { refused } from '../../support/refused.ts';

describe('a submission', () => {
  let directory: string;
  let warnings: string[];
  let abort: AbortController;
  let context: SubmissionContext;
  const path = process.env['PATH'];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-submission-'));
    process.env['PATH'] = `${directory}:${path}`;
    warnings = [];
    abort = new AbortController();
    const unreachable = async (): Promise<never> => Promise.reject(new HpcsError('identity', 'unreachable', 'no server'));
    context = {
      services: { server: { registerJob: unreachable, endJob: unreachable } },
      identity: {}, mode: 'job', transport: new LocalTransport(), signal: abort.signal, name: 'mine',
      warn: (line: string) => void warnings.push(line), progress: () => undefined, asking: () => undefined, submitted: async () => undefined,
    } as unknown as SubmissionContext; // prettier-ignore
  });
  afterEach(async () => {
    process.env['PATH'] = path;
    await rm(directory, { recursive: true });
  });

  const slurm = async (programs: Record<string, string>): Promise<void> => {
    for (const [name, body] of Object.entries(programs)) {
      await writeFile(join(directory, name), `#!/bin/sh\n${name === 'sbatch' ? 'cat >/dev/null\n' : ''}${body}\n`);
      await chmod(join(directory, name), 0o755);
    }
  };
  const submit = (): Promise<string> =>
    submitWithTicket('#!/bin/sh\n', { ...makeTicket(), file: join(directory, 'ticket') }, { artefacts: [] }, context);

  it('warns of the job that may be there where it was interrupted before the answer came', async () => {
    await slurm({ sbatch: `touch ${directory}/asked; exec sleep 20` });
    const submitting = submit();
    void (async () => {
      while (!existsSync(join(directory, 'asked'))) await sleep(10);
      abort.abort(new HpcsError('interrupted', 'interrupted', 'interrupted'));
    })();
    await assert.rejects(submitting);
    assert.deepEqual(warnings, [
      'a job mine may wait on hold on the site: sbatch was asked, and its answer did not come. Look there with squeue --me, and end it with scancel',
    ]);
    assert.equal(existsSync(join(directory, 'ticket')), false);
  });

  it('warns of it where the scheduler fell silent, on hold or not', async () => {
    await slurm({ sbatch: 'echo Socket timed out on send/recv operation >&2; exit 1' });
    await assert.rejects(submit(), refused('slurm-unreachable'));
    await assert.rejects(submitScript('', context), refused('slurm-unreachable'));
    assert.match(warnings.join('\n'), /^a job mine may wait on hold on .*\na job mine may wait or run on /);
  });

  it('warns of it where sbatch, or the shell before it, was ended by a signal', async () => {
    for (const end of ['kill -9 $$', 'exit 137']) {
      await slurm({ sbatch: end });
      await assert.rejects(submit(), refused('slurm-cut-short'));
    }
    assert.match(warnings.join('\n'), /^a job mine may wait on hold on .*\na job mine may wait on hold on /);
  });

  it('leaves nothing on the site that waits for a server that does not answer', async () => {
    await slurm({ sbatch: 'echo 7', scancel: `echo "$1" > ${directory}/cancelled` });
    const left: boolean[] = [];
    const silent = async (): Promise<void> => {
      left.push(existsSync(join(directory, 'ticket')), !existsSync(join(directory, 'cancelled')));
    };
    Object.assign(context.services.server, { endJob: silent });
    await assert.rejects(submit(), refused('unreachable'));
    assert.deepEqual(left, [false, false]);
  });

  it('warns of nothing where it was refused', async () => {
    await slurm({ sbatch: 'echo sbatch: error: invalid partition specified: x >&2; exit 1' });
    await assert.rejects(submit(), refused('sbatch-partition'));
    // As a wrapper in Perl ends.
    await slurm({ sbatch: 'echo not today >&2; exit 255' });
    await assert.rejects(submit(), refused('sbatch-refused'));
    assert.deepEqual(warnings, []);
  });

  it('is taken back where the server does not take it, and warned of where it cannot be', async () => {
    await slurm({ sbatch: 'echo 7', scancel: `echo "$1" > ${directory}/cancelled` });
    await assert.rejects(submit(), refused('unreachable'));
    assert.deepEqual([await readFile(join(directory, 'cancelled'), 'utf8'), warnings], ['7\n', []]);
    await slurm({ scancel: 'echo no such scheduler >&2; exit 1' });
    await assert.rejects(submit(), refused('unreachable'));
    assert.match(
      warnings.join('\n'),
      /^job 7 may wait on hold on the site: .*no such scheduler. End it with: hpcs job cancel 7$/,
    );
  });
});

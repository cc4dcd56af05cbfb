import { Args } from '@oclif/core';
import { BaseCommand, configFlag } from '../../src/base-command.ts';
import { endJob, hasRun } from '../../src/job/end.ts';
import { knownJob } from '../../src/job/known.ts';
import { connect } from '../../src/site/connect.ts';
import { cancel, isFinal, jobState } from '../../src/site/slurm.ts';

/** Cancels a job. */
export default class JobCancel extends BaseCommand {
  static override summary = 'cancel a job';
  static override description = `The job is asked to end and seals what it has written so far, if the site's time for that suffices. A job that has ended already is no error.`;
  static override examples = ['<%= config.bin %> job cancel 4711'];
  static override args = {
    job: Args.string({ description: 'job id, as job-prep reported it', required: true, ignoreStdin: true }),
  };
  static override flags = { config: configFlag };

  async run(): Promise<{ jobId: string; state: string | null; cancelled: boolean }> {
    const { args, flags } = await this.parse(JobCancel);
    const { config, job } = await knownJob(flags.config, args.job);
    const { jobId } = job;
    await using transport = await connect(config, { signal: this.signal, username: job.username });
    const before = await jobState(transport, jobId, { signal: this.signal });
    const over = before === undefined || isFinal(before.state);
    if (!over) await cancel(transport, jobId, { signal: this.signal });
    const state = over ? before : await jobState(transport, jobId, { signal: this.signal });
    await endJob(job, { config, transport, ran: hasRun(state), signal: this.signal, warn: this.warning });
    this.log(
      over ? `job ${jobId} had ended already: ${before?.state ?? 'the scheduler knows it no more'}` : `cancelled job ${jobId}`,
    );
    this.log(`what it left: hpcs job status ${jobId}`);
    return { jobId, state: state?.state ?? null, cancelled: !over };
  }
}

import { Args } from '@oclif/core';
import { BaseCommand, configFlag } from '../../src/base-command.ts';
import { endIfOver } from '../../src/job/end.ts';
import { knownJob, summarise, type JobSummary } from '../../src/job/known.ts';
import { isAwaited } from '../../src/job/attend.ts';
import { describeStatus, jobStatus, type JobStatus as Status } from '../../src/job/status.ts';
import { connect } from '../../src/site/connect.ts';
import { isFinal } from '../../src/site/slurm.ts';

/** Shows how a job stands. */
export default class JobStatus extends BaseCommand {
  static override summary = 'show how a job stands';
  static override description = `Asks the scheduler, and looks whether results are there. The exit code is 0 whatever the job's state is; scripts read --json.`;
  static override examples = ['<%= config.bin %> job status 4711', '<%= config.bin %> job status 4711 --json'];
  static override args = {
    job: Args.string({ description: 'job id, as job-prep reported it', required: true, ignoreStdin: true }),
  };
  static override flags = { config: configFlag };

  async run(): Promise<{ job: JobSummary } & Status> {
    const { args, flags } = await this.parse(JobStatus);
    const { config, job } = await knownJob(flags.config, args.job);
    await using transport = await connect(config, { signal: this.signal, username: job.username });
    const status = await jobStatus(transport, job, { signal: this.signal });
    for (const line of describeStatus(job, status)) this.log(line);
    if (isAwaited(job) && status.state !== null && !isFinal(status.state.state))
      this.log(`keys: to be brought by this client, job-prep or: hpcs job attend ${job.jobId}`);
    await endIfOver(job, { config, transport, signal: this.signal, warn: this.warning });
    return { job: summarise(job), ...status };
  }
}

import { Args, Flags } from '@oclif/core';
import { once } from 'node:events';
import { BaseCommand, configFlag } from '../../src/base-command.ts';
import { followJob } from '../../src/job/follow.ts';
import { knownJob } from '../../src/job/known.ts';
import { readLog } from '../../src/job/log.ts';
import { printableWriter } from '../../src/report.ts';
import { connect } from '../../src/site/connect.ts';
import { outputLost } from '../../src/standard-output.ts';

/** Shows the log of a job. */
export default class JobLogs extends BaseCommand {
  // The log is a stream for people, with no JSON form.
  static override enableJsonFlag = false;
  static override summary = 'show the log of a job';
  static override description = `The log holds the steps of the job. What the application prints is confidential: it lies in the results.`;
  static override examples = ['<%= config.bin %> job logs 4711', '<%= config.bin %> job logs 4711 --follow'];
  static override args = {
    job: Args.string({ description: 'job id, as job-prep reported it', required: true, ignoreStdin: true }),
  };
  static override flags = {
    config: configFlag,
    follow: Flags.boolean({ char: 'f', summary: 'wait for more until the job ends', default: false }),
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(JobLogs);
    const { config, job } = await knownJob(flags.config, args.job);
    // A log that nobody takes any more need not be read on.
    const signal = AbortSignal.any([this.signal, outputLost]);
    await using transport = await connect(config, { signal, username: job.username });
    // Whoever can write there could else steer the terminal that it is shown on.
    const show = printableWriter((text) => process.stdout.write(text));
    if (flags.follow) {
      const end = await followJob(transport, job, { log: show, progress: this.progress, signal });
      this.progress(`job ${job.jobId} ended ${end.state} with exit code ${end.exitCode}`);
      return;
    }
    for await (const bytes of readLog(transport, job, { signal })) {
      show(bytes);
      if (process.stdout.writableNeedDrain) await once(process.stdout, 'drain', { signal }).catch(() => signal.throwIfAborted());
    }
  }
}

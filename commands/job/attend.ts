import { Args } from '@oclif/core';
import { BaseCommand, configFlag } from '../../src/base-command.ts';
import { loadConfig } from '../../src/config.ts';
import { messageOf } from '../../src/errors.ts';
import { attendToEnd, isAlarm, isAwaited } from '../../src/job/attend.ts';
import { JobStore } from '../../src/job/store.ts';
import { connect } from '../../src/site/connect.ts';
import { stateDirectory } from '../../src/state.ts';

/** Brings waiting jobs their keys. */
export default class JobAttend extends BaseCommand {
  static override summary = 'bring jobs their keys, where their nodes reach no service (mode = connected)';
  static override description = `job-prep does this by itself for as long as it runs. This takes over where it was ended: it waits until each job has started and asked, redeems its \
ticket at the HPCS server, and puts the sealed answer on the site. It ends when every job has its keys, or is over. Without JOB it attends all jobs that were \
submitted from here and have not been brought their keys.`;
  static override examples = ['<%= config.bin %> job attend', '<%= config.bin %> job attend 4711'];
  static override args = {
    job: Args.string({ description: 'job id, as job-prep reported it (default: all that wait)', ignoreStdin: true }),
  };
  static override flags = { config: configFlag };

  async run(): Promise<{ answered: string[]; ended: string[] }> {
    const { args, flags } = await this.parse(JobAttend);
    const config = await loadConfig(flags.config);
    const site = config.supercomputer.address;
    const store = new JobStore(await stateDirectory(config));
    const known = args.job === undefined ? await store.list() : [await store.find(args.job, site)];
    const jobs = known.filter(isAwaited).filter((job) => job.site === site);
    const outcome = { answered: [] as string[], ended: [] as string[] };
    if (jobs.length === 0) this.progress(args.job === undefined ? 'no job waits for this client' : `job ${args.job} does not wait for its client`); // prettier-ignore
    const failures: unknown[] = [];
    const trying = async (task: () => Promise<void>): Promise<void> => {
      try {
        await task();
      } catch (error) {
        failures.push(error);
        // At once: the others may take days.
        if (jobs.length > 1 && !this.signal.aborted) this.warning(messageOf(error));
      }
    };
    const attend = async (username: string): Promise<void> => {
      await using transport = await connect(config, { signal: this.signal, username });
      const context = { config, transport, store, signal: this.signal, progress: this.progress, warn: this.warning };
      const theirs = jobs.filter((job) => job.username === username);
      await Promise.all(theirs.map((job) => trying(async () => {
        this.progress(`attending job ${job.jobId} (${job.name})`);
        const answered = await attendToEnd(job, context);
        outcome[answered ? 'answered' : 'ended'].push(job.jobId);
        this.log(answered ? `job ${job.jobId} has its answer; follow it with: hpcs job logs ${job.jobId} --follow` : `job ${job.jobId} has ended`);
      }))); // prettier-ignore
    };
    await Promise.all([...new Set(jobs.map((job) => job.username))].map((username) => trying(() => attend(username))));
    this.signal.throwIfAborted();
    if (failures.length > 0) throw failures.find(isAlarm) ?? failures[0];
    return outcome;
  }
}

import { BaseCommand, configFlag } from '../../src/base-command.ts';
import { loadConfig } from '../../src/config.ts';
import { HpcsError } from '../../src/errors.ts';
import { summarise, type JobSummary } from '../../src/job/known.ts';
import { JobStore } from '../../src/job/store.ts';
import { stateDirectory } from '../../src/state.ts';
import { table } from '../../src/table.ts';

/** Lists the jobs that were submitted from here. */
export default class JobList extends BaseCommand {
  static override summary = 'list the jobs submitted from here, newest first';
  static override description = 'Reads the state directory (HPCS_STATE_DIR) alone: the site is not asked. Keys are never shown.';
  static override examples = ['<%= config.bin %> job list'];
  static override flags = { config: configFlag };

  async run(): Promise<JobSummary[]> {
    const { flags } = await this.parse(JobList);
    // Of a configuration only the state directory counts here, and without one there is a default.
    const config = await loadConfig(flags.config).catch((error: unknown) => {
      if (error instanceof HpcsError && error.code === 'config-missing') return undefined;
      throw error;
    });
    const jobs = (await new JobStore(await stateDirectory(config)).list()).map(summarise);
    const rows = jobs.map((job) => [
      job.jobId ?? '(not submitted)',
      job.created.replace(/\.\d+Z$/, 'Z'),
      `${job.username}@${job.site}`,
      job.name,
    ]);
    if (rows.length === 0) this.progress('no jobs were submitted from this state directory');
    else for (const line of table([['JOB', 'CREATED', 'SITE', 'NAME'], ...rows])) this.log(line);
    return jobs;
  }
}

import { loadConfig, type Config } from '../config.ts';
import { stateDirectory } from '../state.ts';
import { isAwaited } from './attend.ts';
import { JobStore, type JobRecord, type SubmittedRecord } from './store.ts';

/** A job that was submitted from this state directory, and the configuration of its site. */
export interface KnownJob {
  config: Config;
  job: SubmittedRecord;
}

/**
 * The job that a command names. Only jobs of this client's own are found, so that a mistyped id never touches another one.
 *
 * @param configFile value of `--config`
 * @throws HpcsError `usage` for a configuration that is wrong or a job that is unknown
 */
export async function knownJob(configFile: string | undefined, jobId: string): Promise<KnownJob> {
  const config = await loadConfig(configFile);
  const job = await new JobStore(await stateDirectory(config)).find(jobId, config.supercomputer.address);
  return { config, job: { ...job, jobId } };
}

/** What may be shown of a job: everything in its record but the keys. */
export interface JobSummary {
  /** The scheduler's; null when the job was never submitted. */
  jobId: string | null;
  name: string;
  site: string;
  username: string;
  workdir: string;
  /** RFC 3339 time. */
  created: string;
  /** How it gets its keys; null for a job of an earlier version. */
  access: JobRecord['access'] | null;
  /** Whether its keys are still to be brought, by `hpcs job attend`. */
  awaited: boolean;
}

/** Field by field, so that a secret added to the record is not shown by accident. */
export function summarise(job: JobRecord): JobSummary {
  const { jobId, name, site, username, workdir, created, access } = job;
  return { jobId: jobId ?? null, name, site, username, workdir, created, access: access ?? null, awaited: isAwaited(job) };
}

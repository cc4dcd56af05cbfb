import { jobState, type JobState } from '../site/slurm.ts';
import type { Transport } from '../site/transport.ts';
import { findResults, type FoundResults, type JobOnSite } from './found.ts';

/** How a job stands. */
export interface JobStatus {
  /** Null when neither the scheduler nor its accounting knows the job any more. */
  state: JobState | null;
  results: FoundResults;
}

/** Asks the scheduler for a job's state and looks for its results. @throws HpcsError `job` or `site` */
export async function jobStatus(transport: Transport, job: JobOnSite, options: { signal: AbortSignal }): Promise<JobStatus> {
  const [state, results] = await Promise.all([jobState(transport, job.jobId, options), findResults(transport, job, options)]);
  return { state: state ?? null, results };
}

/** A status in words, one fact a line. */
export function describeStatus(job: JobOnSite, { state, results }: JobStatus): string[] {
  const lines = [`job ${job.jobId} (${job.name}): ${state?.state ?? 'no longer known to the scheduler'}`];
  if (state !== null) {
    if (state.nodes !== '') lines.push(`nodes: ${state.nodes}`);
    if (state.reason !== 'None') lines.push(`reason: ${state.reason}`);
    if (state.exitCode !== 0) lines.push(`exit code: ${state.exitCode}`);
    if (state.signal !== 0) lines.push(`ended by signal: ${state.signal}`);
  }
  const open = `hpcs job results ${job.jobId}`;
  const words = { whole: `ready, open with: ${open}`, partial: `partial so far, open with: ${open} --partial`, none: 'none yet' };
  return [...lines, `results: ${words[results.content]}`];
}

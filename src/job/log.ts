import { HpcsError } from '../errors.ts';
import { readStream } from '../site/files.ts';
import { isFinal, jobState } from '../site/slurm.ts';
import type { Transport } from '../site/transport.ts';
import type { JobOnSite } from './found.ts';
import { logPath } from './script.ts';

/**
 * The log of a job as it is now: what the job itself says, not the application, whose output lies in the results.
 *
 * @throws HpcsError `job` `no-log` when nothing has been written yet, `site` when it cannot be read
 */
export async function* readLog(
  transport: Transport,
  job: JobOnSite,
  options: { signal: AbortSignal },
): AsyncGenerator<Uint8Array, void, undefined> {
  const path = logPath(job.workdir, job.name, job.jobId);
  try {
    yield* readStream(transport, path, options);
  } catch (error) {
    if (!(error instanceof HpcsError) || error.code !== 'site-not-found') throw error;
    const state = await jobState(transport, job.jobId, options);
    const over = state === undefined || isFinal(state.state);
    throw new HpcsError(
      'job',
      'no-log',
      over
        ? `job ${job.jobId} has ended and left no log: there is no ${path}`
        : `job ${job.jobId} has written no log yet: there is no ${path}`,
      {
        cause: error,
        suggestion: over
          ? `it may never have started: hpcs job status ${job.jobId} shows what the scheduler knows`
          : `wait for it with --follow, or see whether it has started: hpcs job status ${job.jobId}`,
      },
    );
  }
}

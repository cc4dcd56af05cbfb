import { HpcsError } from '../errors.ts';
import { followLog, waitForEnd, willNotStart, type JobState } from '../site/slurm.ts';
import type { Transport } from '../site/transport.ts';
import { hasRun } from './end.ts';
import { logPath } from './script.ts';

/** How a job ended. */
export interface JobEnd {
  state: string;
  /** Exit code of the job, which is that of the application unless something else failed. */
  exitCode: number;
  /** Whether it was given a node. */
  ran: boolean;
}

/**
 * Waits for the end of a job: with its log, or with its changes of state.
 *
 * @param options.log receives the log's bytes as they come; without it changes of state go to `progress`
 */
export async function followJob(
  transport: Transport,
  job: { jobId: string; name: string; workdir: string },
  options: { log?: (bytes: Uint8Array) => void; progress: (line: string) => void; signal: AbortSignal },
): Promise<JobEnd> {
  const { signal, progress } = options;
  const ended = waitForEnd(transport, job.jobId, {
    signal,
    onState: (state) => {
      // A job that waits has no log yet.
      if (options.log === undefined || state.state === 'PENDING')
        progress(`job ${job.jobId} is ${state.state}${state.reason && state.reason !== 'None' ? ` (${state.reason})` : ''}`);
      if (willNotStart(state))
        progress(`as it stands it will not start: hpcs job cancel ${job.jobId} gives it up, and Ctrl-C only ends the waiting`);
    },
  });
  if (options.log !== undefined)
    await followLog(transport, logPath(job.workdir, job.name, job.jobId), { until: ended, onBytes: options.log, signal });
  return endOf(await ended);
}

// Where slurmd itself failed, as when it cannot enter the working directory, Slurm gives this number in place of a signal's.
const slurmsOwn = 53;

function endOf(state: JobState): JobEnd {
  const signalled = state.signal !== 0 && state.signal !== slurmsOwn;
  // A job that a signal or the scheduler ended has exit code 0 in Slurm's eyes.
  const exitCode = state.exitCode !== 0 ? state.exitCode : signalled ? 128 + state.signal : state.state === 'COMPLETED' ? 0 : 6;
  return { state: state.state, exitCode, ran: hasRun(state) === true };
}

/** The error with which a command ends when its job did not succeed; its exit code is the job's. */
export function jobFailed(jobId: string, end: JobEnd): HpcsError {
  return new HpcsError('job', 'job-failed', `job ${jobId} ended ${end.state} with exit code ${end.exitCode}`, {
    exitCode: end.exitCode,
    result: { jobId, ...end },
    suggestion: end.ran
      ? `its log says why: hpcs job logs ${jobId}; hpcs job results ${jobId} opens what it left`
      : `it was given no node; hpcs job status ${jobId} shows the reason`,
  });
}

/** The error of a command that was interrupted while it followed a job, which does not end with it. */
export function goesOn(jobId: string, options: { awaited: boolean }): HpcsError {
  const give = `give it up with: hpcs job cancel ${jobId}`;
  return new HpcsError('interrupted', 'interrupted', `interrupted: job ${jobId} goes on`, {
    result: { jobId },
    suggestion: options.awaited
      ? `it gets its keys from this client alone: hpcs job attend ${jobId}; or ${give}`
      : `see how it stands with: hpcs job status ${jobId}; or ${give}`,
  });
}

import type { Config } from '../config.ts';
import { messageOf } from '../errors.ts';
import { openIdentity } from '../identity/client-identity.ts';
import { openServices } from '../services.ts';
import { remove } from '../site/files.ts';
import { isFinal, jobState, type JobState } from '../site/slurm.ts';
import type { Transport } from '../site/transport.ts';
import { stateDirectory } from '../state.ts';
import { removeConnection } from './attend.ts';
import { JobStore, type JobRecord } from './store.ts';

/** Whether a job ran, as far as the scheduler tells: one that was given no node did not. Undefined where it knows no more. */
export function hasRun(state: Pick<JobState, 'nodes'> | undefined): boolean | undefined {
  return state === undefined ? undefined : state.nodes !== '';
}

/** What {@link endJob} works with. */
export interface EndContext {
  config: Config;
  transport: Transport;
  signal: AbortSignal;
  warn: (line: string) => void;
}

/** {@link endJob} for a job that has ended, which is looked up; one that waits or runs is left alone. @throws HpcsError `job`, `site` */
export async function endIfOver(job: JobRecord & { jobId: string }, context: EndContext): Promise<void> {
  if (job.ticket === undefined) return;
  const { transport, signal } = context;
  const state = job.ticket.ended === undefined ? await jobState(transport, job.jobId, { signal }) : undefined;
  // One that the scheduler knows no more has ended.
  if (state === undefined || isFinal(state.state)) await endJob(job, { ...context, ran: hasRun(state) });
}

/**
 * Ends what a job may do: its ticket opens nothing any more, its own secret is destroyed. Once that is done it is not done again, but
 * an alarm is repeated. Whatever fails is warned of, since it ends by itself when the ticket expires.
 *
 * @param context.ran whether the job ran: a ticket that was redeemed although it did not, was somebody else's
 */
export async function endJob(job: JobRecord, context: EndContext & { ran: boolean | undefined }): Promise<void> {
  const { config, transport, ran, signal, warn } = context;
  const { ticket } = job;
  if (ticket === undefined) return;
  const alarm = (line: string | null): void => void (line !== null && warn(line));
  if (ticket.ended !== undefined) return alarm(ticket.ended.alarm);
  try {
    await using services = await openServices(config);
    await using identity = await openIdentity(config, { signal, progress: () => undefined });
    const found = await services.server.endJob(ticket.hash, identity.prove, signal);
    const what = found.stolen
      ? 'was shown with two different keys'
      : found.redeemed && ran === false
        ? 'was redeemed, and the job never ran'
        : undefined;
    const line =
      what === undefined
        ? null
        : `ALARM: the ticket of job ${job.jobId} ${what}: somebody else had it, and may have got the keys of image and data. Tell the site and those who run the HPCS server, and prepare both again`;
    alarm(line);
    await new JobStore(await stateDirectory(config)).save({ ...job, ticket: { ...ticket, ended: { alarm: line } } });
    await remove(transport, ticket.file, { signal });
    if (job.connection !== undefined) await removeConnection(transport, job.connection.directory, { signal });
  } catch (error) {
    signal.throwIfAborted();
    warn(
      `the identity of job ${job.jobId} could not be ended now, it ends by itself when its ticket expires: ${messageOf(error)}`,
    );
  }
}

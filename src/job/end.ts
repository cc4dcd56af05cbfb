import type { Config } from '../config.ts';
import { messageOf } from '../errors.ts';
import { openIdentity } from '../identity/client-identity.ts';
import { openServices } from '../services.ts';
import { remove } from '../site/files.ts';
import { isFinal, jobState, type JobState } from '../site/slurm.ts';
import type { Transport } from '../site/transport.ts';
import { stateDirectory } from '../state.ts';
import { removeConnection } from './attend.ts';
import { JobStore, type JobRecord, type JobTicket, type SubmittedRecord } from './store.ts';

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

/** {@link endJob} for a job that has ended, which is looked up; one that waits or runs is left alone. What fails is warned of. */
export async function endIfOver(job: SubmittedRecord, context: EndContext): Promise<void> {
  if (job.ticket === undefined) return;
  const { transport, signal, warn } = context;
  let state: JobState | undefined;
  try {
    if (job.ticket.ended === undefined) state = await jobState(transport, job.jobId, { signal });
  } catch (error) {
    signal.throwIfAborted();
    warn(`whether job ${job.jobId} has ended is not known now, so its identity is not ended: ${messageOf(error)}`);
    return;
  }
  // One that the scheduler knows no more has ended.
  if (state === undefined || isFinal(state.state)) await endJob(job, { ...context, ran: hasRun(state) });
}

/**
 * Ends what a job may do: its ticket opens nothing any more, its own secret is destroyed, and what it needed to start is removed from
 * the site. What is done is not done again, but an alarm is repeated. Whatever fails is warned of.
 *
 * @param given as it was read some time ago; what another process has done meanwhile counts
 * @param context.ran whether the job ran: a ticket that was redeemed although it did not, was somebody else's
 */
export async function endJob(given: JobRecord, context: EndContext & { ran: boolean | undefined }): Promise<void> {
  const { config, signal, warn } = context;
  if (given.ticket === undefined) return;
  const { file, hash } = given.ticket;
  let store: JobStore;
  let before: JobTicket['ended'];
  let ended: NonNullable<JobTicket['ended']>;
  try {
    store = new JobStore(await stateDirectory(config));
    before = (await store.latest(given)).ticket?.ended;
    ended = before ?? { alarm: await endTicket(given, hash, context), left: true };
  } catch (error) {
    signal.throwIfAborted();
    warn(
      `the identity of job ${given.jobId} could not be ended now, it ends by itself when its ticket expires: ${messageOf(error)}`,
    );
    return;
  }
  if (ended.alarm !== null) warn(ended.alarm);
  if (before !== undefined && before.left !== true) return;
  const note = async (end: typeof ended): Promise<boolean> => {
    try {
      await keepEnd(store, given, end);
      return true;
    } catch (error) {
      signal.throwIfAborted();
      warn(`that the identity of job ${given.jobId} was ended cannot be noted: ${messageOf(error)}`);
      return false;
    }
  };
  // The alarm first: whatever fails from here on, it is not lost.
  const noted = await note(ended);
  try {
    await removeTraces(given, file, context);
  } catch (error) {
    signal.throwIfAborted();
    warn(
      `what job ${given.jobId} needed to start is not removed from the site: ${messageOf(error)}; hpcs job status ${given.jobId} tries again`,
    );
    return;
  }
  if (noted) await note({ alarm: ended.alarm });
}

/** @returns what is wrong */
async function endTicket(
  job: JobRecord,
  hash: string,
  context: EndContext & { ran: boolean | undefined },
): Promise<string | null> {
  const { config, ran, signal } = context;
  await using services = await openServices(config);
  await using identity = await openIdentity(config, { signal, progress: () => undefined });
  const found = await services.server.endJob(hash, identity.prove, signal);
  const redeemed = found.redeemed && ran === false ? 'was redeemed, and the job never ran' : undefined;
  const what = found.stolen ? 'was shown with two different keys' : redeemed;
  return what === undefined
    ? null
    : `ALARM: the ticket of job ${job.jobId} ${what}: somebody else had it, and may have got the keys of image and data. Tell the site and those who run the HPCS server, and prepare both again`;
}

/** Another process may have ended the same job, and seen more: an alarm is never taken back. */
async function keepEnd(store: JobStore, job: JobRecord, ended: NonNullable<JobTicket['ended']>): Promise<void> {
  await store.update(job, (latest) => {
    const ticket = latest.ticket ?? job.ticket;
    if (ticket === undefined) return latest;
    return { ...latest, ticket: { ...ticket, ended: { ...ended, alarm: ended.alarm ?? ticket.ended?.alarm ?? null } } };
  });
}

async function removeTraces(job: JobRecord, ticketFile: string, { transport, signal }: EndContext): Promise<void> {
  await remove(transport, ticketFile, { signal });
  if (job.connection !== undefined) await removeConnection(transport, job.connection.directory, { signal });
}

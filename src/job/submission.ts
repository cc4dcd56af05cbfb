import { messageOf } from '../errors.ts';
import { takingBack, type Granter } from '../grant.ts';
import type { JobRegistration } from '../hpcs.ts';
import { remove } from '../site/files.ts';
import { cancel, isRefusal, release, submit } from '../site/slurm.ts';
import type { Transport } from '../site/transport.ts';
import { uploadFile } from '../site/upload.ts';
import { ticketHash, type Ticket } from './ticket.ts';

/** What {@link submitScript} works with. */
export interface SubmitContext {
  transport: Transport;
  signal: AbortSignal;
  /** The job's. */
  name: string;
  warn: (line: string) => void;
}

/** What {@link submitWithTicket} works with. */
export interface SubmissionContext extends Omit<Granter, 'warn'>, SubmitContext {
  progress: (line: string) => void;
  /** Told before the scheduler is asked: from then on there may be a job. */
  asking: () => void;
  /** Told of the job as soon as there is one. */
  submitted: (jobId: string) => Promise<void>;
}

/** Submits a script, and warns of the job that there may be where no answer came. @returns the job id @throws HpcsError `job`, `site` */
export async function submitScript(script: string, context: SubmitContext, { hold = false } = {}): Promise<string> {
  const { transport, signal, name, warn } = context;
  try {
    return await submit(transport, script, { hold, signal });
  } catch (error) {
    if (!isRefusal(error)) {
      const does = hold ? 'wait on hold' : 'wait or run';
      warn(
        `a job ${name} may ${does} on the site: sbatch was asked, and its answer did not come. Look there with squeue --me, and end it with scancel`,
      );
    }
    throw error;
  }
}

/**
 * Submits a job that shows a ticket: on hold, since it must not start before the HPCS server knows its ticket, which in turn is
 * registered for a job's id. What fails on the way is undone, the job too.
 *
 * @param script holds one half of the ticket
 * @param ticket.file where on the site its other half goes
 * @param registration what the job may read, as submitted, and who redeems the ticket
 * @returns the job id
 * @throws HpcsError `job`, `site`; `identity` when the server refuses, with code `hpcs-forbidden` for what was not granted
 */
export async function submitWithTicket(
  script: string,
  ticket: Ticket & { file: string },
  registration: Pick<JobRegistration, 'artefacts' | 'connected'>,
  context: SubmissionContext,
): Promise<string> {
  const { services, identity, transport, signal, progress, warn } = context;
  // Undone without the caller's signal, which may be why.
  await using undo = new AsyncDisposableStack();
  const hash = ticketHash(ticket);
  let registering = false;
  // Also where only the answer is lost: the server would hold the job for days, and count it. It knows nothing of others. Behind all that
  // is on the site: a server that does not answer must not keep it there.
  undo.defer(async () => {
    if (registering) await services.server.endJob(hash, identity.prove, takingBack()).catch(() => undefined);
  });
  undo.defer(() => remove(transport, ticket.file));
  await uploadFile(transport, [Buffer.from(`${ticket.fileHalf.reveal()}\n`)], ticket.file, { mode: 0o600, signal });
  context.asking();
  const jobId = await submitScript(script, context, { hold: true });
  undo.defer(() =>
    cancel(transport, jobId).catch((error: unknown) => {
      warn(`job ${jobId} may wait on hold on the site: ${messageOf(error)}. End it with: hpcs job cancel ${jobId}`);
    }),
  );
  await context.submitted(jobId);
  registering = true;
  const spiffeId = await services.server.registerJob({ job: jobId, ticket: hash, ...registration }, identity.prove, signal);
  progress(`job ${jobId} is ${spiffeId}`);
  await release(transport, jobId, { signal });
  undo.move();
  return jobId;
}

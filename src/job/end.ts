import type { Config } from '../config.ts';
import { messageOf } from '../errors.ts';
import { openIdentity } from '../identity/client-identity.ts';
import { openServices } from '../services.ts';
import { remove } from '../site/files.ts';
import type { Transport } from '../site/transport.ts';
import { removeConnection } from './attend.ts';
import type { JobRecord } from './store.ts';

/**
 * Ends what a job may do: its ticket opens nothing any more, its own secret is destroyed. Whatever fails is warned of, since it
 * ends by itself when the ticket expires.
 */
export async function endJob(
  job: JobRecord,
  context: { config: Config; transport: Transport; signal: AbortSignal; warn: (line: string) => void },
): Promise<void> {
  const { config, transport, signal, warn } = context;
  if (job.ticket === undefined) return;
  try {
    await using services = await openServices(config);
    await using identity = await openIdentity(config, { signal, progress: () => undefined });
    const { stolen } = await services.server.endJob(job.ticket.hash, identity.prove, signal);
    if (stolen) {
      warn(
        `ALARM: the ticket of job ${job.jobId} was shown with two different keys: somebody else had it, and may have got the keys of image and data. Tell the site and those who run the HPCS server, and prepare both again`,
      );
    }
    await remove(transport, job.ticket.file, { signal });
    if (job.connection !== undefined) await removeConnection(transport, job.connection.directory, { signal });
  } catch (error) {
    signal.throwIfAborted();
    warn(
      `the identity of job ${job.jobId} could not be ended now, it ends by itself when its ticket expires: ${messageOf(error)}`,
    );
  }
}

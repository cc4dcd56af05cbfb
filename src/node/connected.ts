import { randomBytes } from 'node:crypto';
import { readFile, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HpcsError, systemCode } from '../errors.ts';
import { connectionFiles, formatRequest, readAnswer } from '../job/connection.ts';
import type { Connection } from '../job/plan.ts';
import type { Ticket } from '../job/ticket.ts';
import { pause } from '../pause.ts';
import type { KeyContext } from './key-context.ts';

/** How often the client's answer is looked for, in milliseconds. */
const interval = 1000;

/**
 * Has the client bring the records of this job, over the file system that login node and node share: for nodes that reach no service.
 *
 * @param key age recipient of the job
 * @returns the records as JSON, sealed to that key
 * @throws HpcsError `identity`, `site` or `integrity`
 */
export async function askClient(connection: Connection, ticket: Ticket, key: string, context: KeyContext): Promise<Uint8Array> {
  const { directory, timeout } = connection;
  const { jobId, signal, progress } = context;
  const request = join(directory, connectionFiles.request);
  const answer = join(directory, connectionFiles.answer);
  await place(request, formatRequest(ticket, jobId, key));
  progress('identity: WAITING FOR THE CLIENT of this job, since this node is to reach no service (mode = connected)');
  progress(`identity: leave job-prep running, or run on the machine that submitted the job: hpcs job attend ${jobId}`);
  progress(`identity: without it this job ends in ${timeout} seconds`);
  const end = Date.now() + timeout * 1000;
  let text: string | undefined;
  while ((text = await readIfThere(answer)) === undefined) {
    if (Date.now() > end) {
      throw new HpcsError('identity', 'client-absent', `no client brought the keys of this job within ${timeout} seconds`, {
        suggestion:
          'submit it again and leave job-prep running, or run hpcs job attend; connect-timeout in section [identity] sets the time',
      });
    }
    await pause(interval, signal);
  }
  const sealed = readAnswer(ticket, jobId, key, text);
  progress('identity: the client has answered');
  // Of no use to anybody any more; the client removes what is left when the job has ended.
  for (const file of [request, answer]) await rm(file, { force: true }).catch(() => {});
  await rmdir(directory).catch(() => {});
  return sealed;
}

async function place(path: string, content: string): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.part`;
  try {
    await writeFile(temporary, content, { mode: 0o600, flag: 'wx' });
    await rename(temporary, path);
  } catch (error) {
    throw unusable(path, error);
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw unusable(path, error);
  }
}

function unusable(path: string, cause: unknown): HpcsError {
  return new HpcsError('site', 'connection-unusable', `cannot use ${path}: ${systemCode(cause) ?? 'unknown error'}`, {
    cause,
    suggestion: 'its directory must be shared with the compute nodes: tool-kit-directory in the configuration, or --workdir',
  });
}

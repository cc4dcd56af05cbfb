import type { Config } from '../config.ts';
import { HpcsError } from '../errors.ts';
import { openIdentity } from '../identity/client-identity.ts';
import { pause } from '../pause.ts';
import { openServices } from '../services.ts';
import { assignments } from '../shell.ts';
import { readFile, run } from '../site/files.ts';
import { isPassing, jobState, stageOf, waitForEnd } from '../site/slurm.ts';
import type { Transport } from '../site/transport.ts';
import { uploadFile } from '../site/upload.ts';
import { connectionFiles, formatAnswer, longestMessage, readRequest, type Refusal } from './connection.ts';
import type { JobRecord, JobStore, SubmittedRecord } from './store.ts';

/** What {@link attendJob} works with. */
export interface AttendContext {
  config: Config;
  transport: Transport;
  store: JobStore;
  signal: AbortSignal;
  progress: (line: string) => void;
  warn: (line: string) => void;
}

/** Times between two looks, in milliseconds: growing while nothing comes, since jobs may wait for days. */
const looks = { first: 1000, longest: 5000 };
/** How long to wait where keys cannot be asked for, in milliseconds. */
const askAgain = 5000;

/** Whether a job waits, or will, for its client to bring its keys. */
export function isAwaited(job: JobRecord): job is SubmittedRecord {
  if (job.jobId === undefined || job.connection === undefined || job.ticket?.ended !== undefined) return false;
  return job.connection.answered === undefined;
}

/**
 * Brings a job of connected mode its keys: waits for its request, redeems its ticket with the proof of this client, and puts the
 * answer, which only the job can open, on the site.
 *
 * Nothing is given to a request that was not made with the ticket, or lay there before the job ran.
 *
 * @param until settles when the job has ended
 * @returns whether it was answered; at once for a job that needs no client
 * @throws HpcsError `integrity` for a request that is not the job's, `site` when the site is lost
 */
export async function attendJob(job: JobRecord, context: AttendContext, until: Promise<unknown>): Promise<boolean> {
  if (!isAwaited(job) || job.connection === undefined) return false;
  const { directory, scriptHalf, fileHalf } = job.connection;
  const ticket = { scriptHalf, fileHalf };
  const over = new AbortController();
  const end = (): void => over.abort();
  until.then(end, end);
  const { transport, store, signal, progress, warn } = context;
  const either = AbortSignal.any([signal, over.signal]);
  for (let wait = looks.first; !over.signal.aborted; wait = Math.min(looks.longest, wait * 1.5)) {
    signal.throwIfAborted();
    const text = await requestOf(transport, directory, signal);
    const running = text !== undefined && (await isRunning(job, transport, signal));
    if (text === undefined || !running) {
      await pause(wait, signal, over.signal);
      continue;
    }
    const key = readRequest(ticket, job.jobId, text);
    progress(`job ${job.jobId} asks for its keys: redeeming its ticket for it`);
    const content = await redeem(job, ticket, key, context, either);
    if (content === undefined) continue;
    const answer = Buffer.from(formatAnswer(ticket, job.jobId, key, content));
    if (!(await bring(answer, `${directory}/${connectionFiles.answer}`, context))) continue;
    const met = { ...job.connection, answered: new Date().toISOString() };
    await store.update(job, (latest) => ({ ...latest, connection: met }));
    if (content instanceof Uint8Array) progress(`job ${job.jobId} was brought its keys, sealed to it`);
    else warn(`job ${job.jobId} gets no keys: ${content.message}`);
    return true;
  }
  signal.throwIfAborted();
  return false;
}

/**
 * {@link attendJob} for a job that nobody follows: until it is answered, or has ended.
 *
 * @returns whether it was answered
 * @throws HpcsError as `attendJob` does, and `site` or `job` where its end cannot be seen
 */
export async function attendToEnd(job: SubmittedRecord, context: AttendContext): Promise<boolean> {
  const { transport, signal } = context;
  const done = new AbortController();
  const ended = waitForEnd(transport, job.jobId, { signal: AbortSignal.any([signal, done.signal]) });
  try {
    if (await attendJob(job, context, ended)) return true;
    await ended;
    return false;
  } catch (error) {
    // One that the scheduler knows no more has ended.
    if (error instanceof HpcsError && error.code === 'job-unknown') return false;
    throw error;
  } finally {
    done.abort();
  }
}

/** Whether an error says that somebody else acts for a job. */
export function isAlarm(error: unknown): boolean {
  return error instanceof HpcsError && error.kind === 'integrity';
}

/**
 * Follows a job and attends it meanwhile. A request that is not the job's ends both.
 *
 * @param follow settles when the job has ended
 */
export async function followAttended<Result>(
  job: JobRecord,
  context: AttendContext,
  follow: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const following = follow(signal);
  try {
    await attendJob(job, { ...context, signal }, following);
  } catch (error) {
    stop.abort(error);
    await following.catch(() => undefined);
    throw error;
  }
  return following;
}

/** Removes what a job and its client exchanged. @throws HpcsError `site` */
export async function removeConnection(
  transport: Transport,
  directory: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<void> {
  const { request, answer } = connectionFiles;
  const body = `cd -- "$directory" 2>/dev/null || exit 0\nrm -f -- "$request" "$answer" "$request".*.part ".$answer".*.part\nexec rmdir -- "$directory"`;
  const { code, stderr } = await run(transport, assignments({ directory, request, answer }) + body, options);
  if (code === 0) return;
  throw new HpcsError('site', 'connection-left', `cannot remove ${directory} on the site: ${stderr.trim().slice(0, 300)}`, {
    suggestion: 'look on the site what else is in it, and remove it there',
  });
}

/** @returns whether the job has the answer, or will; not where it has gone without one */
async function bring(answer: Buffer, path: string, { config, transport, signal, warn }: AttendContext): Promise<boolean> {
  let cut = false;
  const warned = (line: string): void => {
    cut = true;
    warn(line);
  };
  // A rename whose own answer was lost is asked for again: given up, it would be taken back.
  const patience = config.supercomputer['reconnect-limit'];
  try {
    await uploadFile(transport, [answer], path, { mode: 0o600, signal, patience, warn: warned });
    return true;
  } catch (error) {
    if (!isGone(error)) throw error;
    // A job removes the directory when it has its answer, which may have come to it before the connection broke; or when it ends.
    return cut;
  }
}

/** Whether a file of the connection is not there, or has gone with its directory. */
function isGone(error: unknown): boolean {
  return error instanceof HpcsError && ['site-not-found', 'site-directory-missing'].includes(error.code);
}

async function requestOf(transport: Transport, directory: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    const bytes = await readFile(transport, `${directory}/${connectionFiles.request}`, { maxBytes: longestMessage, signal });
    return Buffer.from(bytes).toString('utf8');
  } catch (error) {
    signal.throwIfAborted();
    // The job removed it, with its directory, or has not come yet; or the network is away.
    if (isPassing(error) || isGone(error)) return undefined;
    throw error;
  }
}

/** Asked once a request is there: a job that has not started cannot have made it, and one that ends has no use for the keys. */
async function isRunning(job: SubmittedRecord, transport: Transport, signal: AbortSignal): Promise<boolean> {
  let state;
  try {
    state = await jobState(transport, job.jobId, { signal });
  } catch (error) {
    signal.throwIfAborted();
    if (isPassing(error)) return false;
    throw error;
  }
  const stage = state === undefined ? 'other' : stageOf(state.state);
  if (stage !== 'early') return stage === 'running';
  throw new HpcsError(
    'integrity',
    'request-before-start',
    `ALARM: something asks for the keys of job ${job.jobId}, which has not started: somebody else acts for it on the site`,
    { suggestion: `nothing was given; cancel the job (hpcs job cancel ${job.jobId}), and tell the site` },
  );
}

/** @returns undefined where the job ended before the server said anything of its ticket */
async function redeem(
  job: SubmittedRecord,
  ticket: Parameters<typeof formatAnswer>[0],
  key: string,
  { config, signal, warn }: AttendContext,
  either: AbortSignal,
): Promise<Uint8Array | Refusal | undefined> {
  for (let told = ''; !either.aborted;) {
    try {
      // Made when it is needed: a job may have waited for longer than any token lives.
      await using services = await openServices(config);
      await using identity = await openIdentity(config, { signal, progress: () => undefined });
      const request = { halves: [ticket.scriptHalf, ticket.fileHalf], job: job.jobId, key, prove: identity.prove } as const;
      return await services.server.redeem(request, signal).catch(refusalOf);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof HpcsError)) throw error;
      // Whoever is warned can log in, or mend what is wrong here: the job has time until its connect-timeout.
      const { message, suggestion } = error;
      if (told !== message)
        warn(`${message}, job ${job.jobId} waits meanwhile${suggestion === undefined ? '' : `; ${suggestion}`}`);
      told = message;
    }
    await pause(askAgain, signal, either);
  }
  signal.throwIfAborted();
  return undefined;
}

/** What the HPCS server says of the ticket itself, which another try would not change. @throws any other error */
function refusalOf(error: unknown): Refusal {
  if (!(error instanceof HpcsError)) throw error;
  const { code, message, suggestion } = error;
  const refused = code === 'record-mismatch' || code.startsWith('hpcs-');
  if (!refused || code === 'hpcs-unavailable' || code === 'hpcs-busy') throw error;
  return { code, message, suggestion };
}

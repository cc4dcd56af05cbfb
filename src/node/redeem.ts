import { readFile, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { z } from 'zod';
import { HpcsError, systemCode } from '../errors.ts';
import { HpcsServer } from '../hpcs.ts';
import type { JobAccess, JobPlan } from '../job/plan.ts';
import { ticketHalf, type Ticket } from '../job/ticket.ts';
import { pause } from '../pause.ts';
import { generateKey } from '../seal/keys.ts';
import { open } from '../seal/open.ts';
import { Secret } from '../secret.ts';
import { askClient } from './connected.ts';
import type { KeyContext, RecordRole } from './key-context.ts';

type TicketAccess = Extract<JobAccess, { mode: 'job' }>;

const records = z.record(z.enum(['image', 'data', 'job']), z.unknown());

/** Waits before each further try where the server does not answer, in milliseconds: its restart is not the end of a job. */
const waits = [1000, 3000, 10_000, 20_000, 30_000];

/**
 * Trades the job's ticket for its records: at the HPCS server, which is all of the services that a node has to reach, or through the
 * client. They come sealed to a key that is made here, in memory, and that the ticket is bound to from then on.
 *
 * @returns the records by their roles, unchecked
 * @throws HpcsError `identity`; in connected mode `integrity` too, for an answer that is not the client's
 */
export async function redeemTicket(
  plan: JobPlan,
  access: TicketAccess,
  context: KeyContext,
): Promise<Partial<Record<RecordRole, unknown>>> {
  const { signal, progress } = context;
  using fileHalf = await readHalf(access.ticketFile);
  using scriptHalf = new Secret(access.ticketHalf);
  const key = await generateKey('age');
  using secretKey = key.secretKey;
  const ticket = { scriptHalf, fileHalf };
  const sealed =
    access.connection === undefined
      ? await askServer(plan.hpcsServer, ticket, key.publicKey, context)
      : await askClient(access.connection, ticket, key.publicKey, context);
  // Of no use to anybody any more.
  await rm(access.ticketFile, { force: true }).catch(() => {});
  const opened = await buffer(open(Readable.from([sealed]), secretKey, { signal, decompress: false }));
  try {
    const found = records.parse(JSON.parse(opened.toString('utf8')));
    progress('keys: got the records of image, data and job');
    return found;
  } catch {
    // The parser's message would quote keys.
    throw new HpcsError('identity', 'bad-answer', 'the HPCS server answered with something that is not records', {
      suggestion: 'check the versions of client and server',
    });
  } finally {
    opened.fill(0);
  }
}

async function askServer(
  { url, ca, allowInsecureHttp }: JobPlan['hpcsServer'],
  { scriptHalf, fileHalf }: Ticket,
  key: string,
  { jobId, signal, progress }: KeyContext,
): Promise<Uint8Array> {
  await using server = new HpcsServer({ url, ca: ca ?? undefined, allowInsecureHttp, timeout: 30_000 });
  progress('identity: showing the ticket of this job to the HPCS server');
  return await patiently(signal, () => server.redeem({ halves: [scriptHalf, fileHalf], job: jobId, key }, signal));
}

async function readHalf(file: string): Promise<Secret> {
  let content: string;
  try {
    content = (await readFile(file, 'utf8')).trim();
  } catch (error) {
    throw new HpcsError(
      'site',
      'ticket-missing',
      `cannot read the ticket's other half, ${file}: ${systemCode(error) ?? 'unknown error'}`,
      {
        cause: error,
        suggestion: 'its directory must be shared with the compute nodes: tool-kit-directory in the configuration, or --workdir',
      },
    );
  }
  if (ticketHalf.test(content)) return new Secret(content);
  throw new HpcsError('site', 'ticket-altered', `${file} does not hold half a ticket`, { suggestion: 'submit the job again' });
}

async function patiently<Result>(signal: AbortSignal, task: () => Promise<Result>): Promise<Result> {
  for (const wait of waits) {
    try {
      return await task();
    } catch (error) {
      const passing = error instanceof HpcsError && ['unreachable', 'hpcs-unavailable', 'hpcs-busy'].includes(error.code);
      if (!passing) throw error;
    }
    await pause(wait, signal);
  }
  return task();
}

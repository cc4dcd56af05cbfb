import { timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { Secret } from '../secret.ts';
import { jobMac } from './mac.ts';
import type { Ticket } from './ticket.ts';

/**
 * How a job whose node reaches no service and its client exchange messages: two small files in a directory of the submitter's alone on
 * the shared file system, each written beside and renamed. Both are authenticated with the ticket, of which no place on shared storage
 * holds more than one half; what is confidential in them is sealed to the job's key.
 */
export const connectionFiles = { request: 'request.json', answer: 'answer.json' } as const;

/** Bytes. Longer files are none of ours: an answer holds three records. */
export const longestMessage = 1024 * 1024;

const mac = z.string().regex(/^[0-9a-f]{64}$/);
const requestSchema = z.object({ version: z.literal(1), key: z.string().max(128), mac });
const answerSchema = z.object({ version: z.literal(1), payload: z.string(), mac });

/** Why a job gets no keys, in words for its log. */
export interface Refusal {
  code: string;
  message: string;
  suggestion?: string | undefined;
}

const payloadSchema = z.union([
  z.object({ records: z.base64() }),
  z.object({ refusal: z.object({ code: z.string(), message: z.string(), suggestion: z.string().optional() }) }),
]);

/**
 * What a job asks its client: to have its records sealed to this key.
 *
 * @param jobId the scheduler's
 * @param key age recipient of the job
 */
export function formatRequest(ticket: Ticket, jobId: string, key: string): string {
  return `${JSON.stringify({ version: 1, key, mac: code(ticket, 'request', jobId, key, '') })}\n`;
}

/**
 * The key of a request that was made with the ticket, for this job.
 *
 * @throws HpcsError `integrity` `request-forged` for any other
 */
export function readRequest(ticket: Ticket, jobId: string, text: string): string {
  const request = parse(requestSchema, text);
  if (request !== undefined && same(request.mac, code(ticket, 'request', jobId, request.key, ''))) return request.key;
  throw new HpcsError(
    'integrity',
    'request-forged',
    `ALARM: what asks for the keys of job ${jobId} on the site was not made with its ticket: somebody else wrote it`,
    { suggestion: `nothing was given; cancel the job (hpcs job cancel ${jobId}), and tell the site` },
  );
}

/** The client's answer: the records as the HPCS server sealed them, or why there are none. */
export function formatAnswer(ticket: Ticket, jobId: string, key: string, content: Uint8Array | Refusal): string {
  const payload = JSON.stringify(
    content instanceof Uint8Array ? { records: Buffer.from(content).toString('base64') } : { refusal: content },
  );
  return `${JSON.stringify({ version: 1, payload, mac: code(ticket, 'answer', jobId, key, payload) })}\n`;
}

/**
 * What an answer to this key holds: records, sealed to it.
 *
 * @throws HpcsError `integrity` `answer-forged` for one that was not made with the ticket, `identity` with the client's reason
 */
export function readAnswer(ticket: Ticket, jobId: string, key: string, text: string): Uint8Array {
  const answer = parse(answerSchema, text);
  const payload =
    answer !== undefined && same(answer.mac, code(ticket, 'answer', jobId, key, answer.payload))
      ? parse(payloadSchema, answer.payload)
      : undefined;
  if (payload === undefined) {
    throw new HpcsError('integrity', 'answer-forged', 'what lies there as the answer was not made by this client, for this key', {
      suggestion: 'somebody wrote to the directory of the job, or came with another key: tell the site',
    });
  }
  if ('records' in payload) return Buffer.from(payload.records, 'base64');
  const { code: why, message, suggestion } = payload.refusal;
  throw new HpcsError('identity', why, message, suggestion === undefined ? {} : { suggestion });
}

function code({ scriptHalf, fileHalf }: Ticket, kind: 'request' | 'answer', jobId: string, key: string, payload: string): string {
  using both = new Secret(scriptHalf.reveal() + fileHalf.reveal());
  return jobMac(both, `hpcs connected job, ${kind} 1\n`, `${jobId}\n${key}\n${payload}`).toString('hex');
}

function same(one: string, other: string): boolean {
  return one.length === other.length && timingSafeEqual(Buffer.from(one), Buffer.from(other));
}

function parse<Shape extends z.ZodType>(shape: Shape, text: string): z.output<Shape> | undefined {
  try {
    return shape.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

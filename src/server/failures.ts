import type { FastifyReply, FastifyRequest } from 'fastify';
import { HpcsError, messageOf } from '../errors.ts';

/** Codes that a caller is told, since he can act upon them by himself: with another key. */
const told = ['key-ended', 'key-conflict'] as const;
type Told = (typeof told)[number];

/** HTTP status of each error; any other is 502 when a service behind this server refused, 500 when it is our fault. */
const statuses: Readonly<Record<string, number>> = {
  'bad-request': 400,
  unauthenticated: 401,
  forbidden: 403,
  'key-ended': 403,
  'secret-missing': 404,
  conflict: 409,
  'key-conflict': 409,
  'too-large': 413,
  'record-mismatch': 422,
  'too-many-requests': 429,
  'too-many-jobs': 429,
  'spire-unavailable': 503,
  'vault-unavailable': 503,
  'vault-sealed': 503,
  'identity-unavailable': 503,
  'issuer-unavailable': 503,
  unreachable: 503,
  'untrusted-server': 503,
  'record-form': 500,
};

/** What a caller is told of an error, which is logged. */
export function failure(error: unknown, request: FastifyRequest): { status: number; message: string } {
  const known = asHpcsError(error);
  const status = statuses[known.code] ?? (known.kind === 'bug' ? 500 : 502);
  if (status >= 500) {
    const { code, message: reason, suggestion } = known;
    request.log.error({ code, reason, suggestion, cause: causes(known) }, 'request failed');
  } else request.log.warn({ code: known.code, reason: known.message }, 'request refused');
  // What happened inside is for the log; a caller learns what it can act upon.
  return { status, message: known.kind === 'bug' ? 'internal error; see the log of the server' : known.message };
}

/** Answers with a refusal. */
export function fail(reply: FastifyReply, status: number, message: string, code?: Told): FastifyReply {
  return reply.code(status).send({ success: false, message, ...(code !== undefined && { code }) });
}

/** The code of an error, where a caller is told it. */
export function toldCode({ code }: HpcsError): Told | undefined {
  return told.find((one) => one === code);
}

/** An error as ours. Fastify's own (body too large, not JSON, …) carry the status of a client's fault. */
export function asHpcsError(error: unknown): HpcsError {
  if (error instanceof HpcsError) return error;
  // What failed first is why; that its traces could not be removed either, mostly has the same reason.
  if (error instanceof SuppressedError) return asHpcsError(error.suppressed);
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined;
  const refused = typeof status === 'number' && status >= 400 && status < 500;
  const code = status === 413 ? 'too-large' : 'bad-request';
  return new HpcsError(refused ? 'usage' : 'bug', refused ? code : 'bug', messageOf(error), { cause: error });
}

function causes(error: HpcsError): string[] {
  const all: string[] = [];
  for (let cause = error.cause; cause !== undefined && all.length < 5; cause = cause instanceof Error ? cause.cause : undefined) {
    all.push(messageOf(cause));
    if (cause instanceof AggregateError) all.push(...cause.errors.map(messageOf));
  }
  return all;
}

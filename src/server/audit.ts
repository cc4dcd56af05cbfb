import type { FastifyRequest } from 'fastify';
import type { Caller } from './authentication.ts';
import { asHpcsError, failure } from './failures.ts';
import type { Metrics } from './metrics.ts';
import type { Ended } from './under-way.ts';

/** What {@link Audit} works with. */
export interface AuditOptions {
  metrics: Metrics;
  callerOf: (request: FastifyRequest) => Caller | undefined;
  /** Paths of calls that get no line. */
  silent: ReadonlySet<string>;
}

/** What comes of each call: its line in the audit log, and what is counted of it. */
export class Audit {
  readonly #options: AuditOptions;
  readonly #failures = new WeakMap<FastifyRequest, { code: string; status: number }>();

  constructor(options: AuditOptions) {
    this.#options = options;
  }

  /** Logs and counts the error that came of a request. @returns what its caller is told */
  failure(error: unknown, request: FastifyRequest): { status: number; message: string } {
    const { code } = asHpcsError(error);
    const told = failure(error, request);
    this.#failures.set(request, { code, status: told.status });
    this.#options.metrics.refusals.inc({ code });
    return told;
  }

  /** Writes the one line of a call, whatever became of it. */
  ended({ request, reply, aborted, ms }: Ended): void {
    const { metrics, callerOf, silent } = this.#options;
    const route = request.routeOptions.url;
    const call = route === undefined ? 'unknown' : `${request.method} ${route}`;
    const failed = this.#failures.get(request);
    // An answer of lines has begun with 200 before it fails.
    const status = failed?.status ?? reply.statusCode;
    metrics.requests.inc({ call, status });
    metrics.seconds.observe({ call }, ms / 1000);
    if (silent.has(route ?? '')) return;
    // The path alone: a query may hold anything.
    const [path = ''] = request.url.split('?');
    const caller = callerOf(request);
    request.log.info(
      {
        audit: status < 400 ? 'done' : status < 500 ? 'refused' : 'failed',
        ...(aborted && { aborted }),
        method: request.method,
        path: path.slice(0, 200),
        status,
        code: failed?.code,
        caller: caller?.client,
        by: caller?.by,
        from: request.ip,
        ms: Math.round(ms),
      },
      aborted ? 'ended without its caller' : 'answered',
    );
  }
}

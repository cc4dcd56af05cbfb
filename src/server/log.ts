import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import type { Metrics } from './metrics.ts';

const current = new AsyncLocalStorage<string>();

/** Where lines of the log go. */
export interface LogStream {
  /** @param done told of what went wrong, by streams such as standard error */
  write(line: string, done?: (error?: Error | null) => void): void;
}

/** Counts the lines that a stream does not take: nothing else would tell that the audit log has a gap. */
export function counted(stream: LogStream, { logFailures }: Pick<Metrics, 'logFailures'>): LogStream {
  return {
    write: (line) =>
      stream.write(line, (error) => {
        if (error) logFailures.inc();
      }),
  };
}

/** Random: servers beside each other, and a server that starts again, give none twice. */
export function requestId(): string {
  return randomBytes(8).toString('hex');
}

/** The id of the request that this happens for, as a field of a log line. */
export function currentRequest(): { reqId?: string } {
  const reqId = current.getStore();
  return reqId === undefined ? {} : { reqId };
}

/** Has everything that happens for a request know its id, and tells the caller, who can name it to those who read the log. */
export function trackRequests(app: FastifyInstance): void {
  app.addHook('onRequest', (request, reply, done) => {
    void reply.header('x-request-id', request.id);
    current.run(request.id, done);
  });
}

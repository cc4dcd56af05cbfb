import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { HpcsError, systemCode } from '../errors.ts';
import type { Health } from './health.ts';
import type { Metrics } from './metrics.ts';

/**
 * Serves `/metrics`, `/healthz` and `/readyz` on a listener of its own: for those who run the server, not for its callers, who can
 * keep the other one busy. It speaks plain HTTP and asks nobody who he is: what is there are counts and times.
 *
 * @returns the port that it listens on
 * @throws HpcsError `local` when it cannot listen
 */
export async function startMonitor(
  listen: { host: string; port: number },
  health: Health,
  metrics: Metrics,
): Promise<AsyncDisposable & { readonly port: number }> {
  const answers: Record<string, () => Promise<[status: number, type: string, body: string]>> = {
    '/metrics': async () => {
      // Where a part is down, nobody else may be asking.
      await health.readiness();
      return [200, metrics.registry.contentType, await metrics.registry.metrics()];
    },
    '/healthz': async () => [200, 'application/json', '{"success":true}'],
    '/readyz': async () => {
      const { ready, parts } = await health.readiness();
      return [ready ? 200 : 503, 'application/json', JSON.stringify({ success: ready, ...parts })];
    },
  };
  const limits = { requestTimeout: 5000, headersTimeout: 5000, connectionsCheckingInterval: 1000, maxHeaderSize: 8192 };
  const server = createServer(limits, (request, reply) => {
    const [path = ''] = (request.url ?? '').split('?');
    const answer = request.method === 'GET' ? answers[path] : undefined;
    if (answer === undefined) {
      reply.writeHead(404).end();
      return;
    }
    answer().then(
      ([status, type, body]) => reply.writeHead(status, { 'content-type': type }).end(body),
      () => reply.writeHead(500).end(),
    );
  });
  server.maxConnections = 100;
  server.listen(listen.port, listen.host);
  try {
    await once(server, 'listening');
  } catch (error) {
    throw new HpcsError('local', 'cannot-listen', `cannot listen on ${listen.host}:${listen.port}: ${systemCode(error)}`, {
      cause: error,
      suggestion: 'change host and port in section [monitoring], or end what listens there',
    });
  }
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

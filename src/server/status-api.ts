import type { FastifyInstance } from 'fastify';
import type { Health } from './health.ts';
import type { Logins } from './logins.ts';
import type { ServerTls } from './tls.ts';

/** What {@link statusCalls} serves. */
export interface StatusServices {
  logins: Logins;
  trustDomain: string;
  /** PEM text of SPIRE's authorities. */
  trustBundle: () => Promise<string>;
  health: Health;
  /** Without it the server speaks plain HTTP. */
  tls?: ServerTls | undefined;
}

/** What this server can, and how it is. */
export function statusCalls(app: FastifyInstance, services: StatusServices): void {
  const { logins, trustDomain, trustBundle, health, tls } = services;
  app.get('/api/capabilities', async () => ({
    success: true,
    message: 'what this server can beyond the calls of the original',
    capabilities: [
      'enrol',
      'grants',
      'jobs',
      'access',
      ...(logins.issuers.list().length > 0 ? ['login'] : []),
      ...(tls === undefined ? [] : ['x509-svid']),
    ],
    trust_domain: trustDomain,
  }));

  app.get('/api/trust-bundle', async () => ({
    success: true,
    message: 'the authorities of the SPIRE server',
    trust_bundle: await trustBundle(),
  }));

  app.get('/healthz', async () => ({ success: true }));

  app.get('/readyz', async (_request, reply) => {
    const { ready, parts } = await health.readiness();
    return reply.code(ready ? 200 : 503).send({ success: ready, ...parts });
  });
}

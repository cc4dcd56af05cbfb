import { Readable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { HpcsError } from '../errors.ts';
import type { Audit } from './audit.ts';
import type { Authentication } from './authentication.ts';
import { checkBody } from './check-body.ts';
import type { Clients } from './clients.ts';
import type { Grants } from './grants.ts';
import { longestBody } from './limits.ts';
import { linesType, reportLines } from './lines.ts';
import { nodeBody, nodeQuery, registerBody, workloadsBody } from './bodies.ts';
import type { UnderWay } from './under-way.ts';

/** What {@link originalCalls} serves. */
export interface OriginalServices {
  grants: Grants;
  clients: Clients;
  /** Give identities to anyone who asks, as the original does. */
  allowLegacyRegistration: boolean;
  /** Hosts for whose agents authenticated clients get join tokens. */
  nodes: readonly string[];
}

/** The three calls of the original. */
export function originalCalls(
  app: FastifyInstance,
  authentication: Authentication,
  { audit, underWay }: { audit: Audit; underWay: UnderWay },
  services: OriginalServices,
): void {
  const { grants, clients, allowLegacyRegistration, nodes } = services;
  const legacyOnly = async (): Promise<void> => {
    if (allowLegacyRegistration) return;
    throw new HpcsError(
      'identity',
      'forbidden',
      'this server gives no identities to callers it cannot authenticate (it was started without --allow-legacy-registration)',
    );
  };

  const nodesOnly = async (): Promise<void> => {
    if (nodes.length === 0) await legacyOnly();
  };

  app.post('/api/client/register', { onRequest: legacyOnly }, async (request) => {
    const { uid } = checkBody(registerBody, request.body);
    const { clientId, spiffeId, joinToken } = await grants.register(uid, () => clients.reserve());
    request.log.info({ client: clientId, uid }, 'client registered');
    return {
      success: true,
      message: 'client registered; the token can be used once, and only for a few minutes',
      client_id: clientId,
      spiffeID: spiffeId,
      token: joinToken.reveal(),
    };
  });

  app.post('/api/agents/token', { onRequest: nodesOnly }, async (request) => {
    // Whoever has such a token can become the node, and with it any user there.
    const client = allowLegacyRegistration ? undefined : await authentication.client(request);
    const { hostname } = client === undefined ? checkBody(nodeQuery, request.query) : checkBody(nodeBody, request.body);
    if (client !== undefined && !nodes.includes(hostname)) {
      request.log.warn({ client, node: hostname }, 'node token asked for a host that is not allowed');
      throw new HpcsError('identity', 'forbidden', `no tokens for the node ${hostname} here: section [nodes] does not allow it`);
    }
    const { spiffeId, joinToken } = await grants.nodeToken(hostname);
    request.log.info({ client, node: hostname, from: request.ip }, 'node token made');
    return {
      success: true,
      message: 'token made; it can be used once, and only for a few minutes',
      spiffeID: spiffeId,
      token: joinToken.reveal(),
    };
  });

  app.post('/api/client/create-workloads', { bodyLimit: longestBody.readers }, async (request, reply) => {
    const { jwt, ...body } = checkBody(workloadsBody, request.body);
    const client = await authentication.holder(request, jwt);
    const run = async (report?: (done: number, total: number) => void): Promise<object> => {
      const grant = await grants.grant(client, body, report);
      request.log.info(
        { client, secret: body.secret, users: body.users, groups: body.groups, nodes: body.compute_nodes.length },
        'grant made',
      );
      return { success: true, message: 'identities, policy and role made', ...grant };
    };
    if (request.headers.accept?.includes(linesType) !== true) return run();
    const { lines, ended } = reportLines(run, (error) => audit.failure(error, request));
    underWay.hold(request, ended);
    return reply.type(linesType).send(Readable.from(lines));
  });
}

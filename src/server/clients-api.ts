import type { FastifyInstance } from 'fastify';
import { HpcsError } from '../errors.ts';
import { formatSpiffeId, spiffeIds } from '../identity/spiffe-id.ts';
import { Secret } from '../secret.ts';
import type { Authentication } from './authentication.ts';
import { checkBody } from './check-body.ts';
import type { Clients } from './clients.ts';
import { longestBody, type RateLimits } from './limits.ts';
import type { Logins } from './logins.ts';
import { enrolBody, loginBody, permitBody, resolveBody, tokenBody } from './bodies.ts';
import type { Permissions } from './permissions.ts';

/** What {@link clientCalls} serves. */
export interface ClientServices {
  clients: Clients;
  logins: Logins;
  permissions: Permissions;
  trustDomain: string;
  /** Audiences that a client may have tokens for. */
  audiences: readonly string[];
  /** Mints a token of a client's workload, which lives no longer than until a time. */
  mint: (clientId: string, audience: string, until: Date | undefined) => Promise<Secret>;
}

/** The calls by which clients come, go, and let each other use what is theirs. */
export function clientCalls(
  app: FastifyInstance,
  authentication: Authentication,
  rates: RateLimits,
  services: ClientServices,
): void {
  const { clients, logins, permissions, trustDomain, audiences, mint } = services;
  const workloadOf = (client: string): string => formatSpiffeId(spiffeIds.clientWorkload(trustDomain, client));

  app.post('/api/client/enrol', async (request) => {
    const { token } = checkBody(enrolBody, request.body);
    const proof = await authentication.proof(request);
    using secret = new Secret(token);
    const client = await clients.enrol(secret, proof, (who) => rates.admit(request, who));
    request.log.info({ client: client.id, name: client.name, key: proof.thumbprint }, 'key enrolled');
    return {
      success: true,
      message: `enrolled as ${client.name}`,
      client_id: client.id,
      name: client.name,
      spiffeID: workloadOf(client.id),
      trust_domain: trustDomain,
    };
  });

  app.get('/api/login', async () => ({
    success: true,
    message: 'the issuers whose tokens clients may log in with',
    issuers: logins.issuers.list(),
  }));

  app.post('/api/client/login', async (request) => {
    const { id_token } = checkBody(loginBody, request.body);
    const proof = await authentication.proof(request);
    using token = new Secret(id_token);
    const { client, issuer, expires } = await logins.login(token, proof, (who) => rates.admit(request, who));
    const { id, name, groups } = client;
    request.log.info({ client: id, name, issuer, groups, key: proof.thumbprint, expires: expires.toISOString() }, 'logged in');
    return {
      success: true,
      message: `logged in as ${name}`,
      client_id: id,
      name,
      spiffeID: workloadOf(id),
      trust_domain: trustDomain,
      expires: expires.toISOString(),
    };
  });

  app.post('/api/client/logout', async (request) => {
    const { thumbprint } = await authentication.proof(request);
    const client = await authentication.client(request);
    await clients.dismiss(thumbprint);
    request.log.info({ client }, 'logged out');
    return { success: true, message: 'logged out' };
  });

  app.post('/api/client/token', async (request) => {
    const client = await authentication.client(request);
    const { by, until } = authentication.callerOf(request) ?? {};
    // Else a token of minutes would prolong itself for ever, past the end of a session and of a key.
    if (by === 'jwt-svid')
      throw new HpcsError('identity', 'forbidden', 'a JWT-SVID gives no further ones: this call needs a proof of possession');
    const { audience } = checkBody(tokenBody, request.body);
    if (!audiences.includes(audience)) throw new HpcsError('identity', 'forbidden', `no tokens for ${audience} here`);
    using token = await mint(client, audience, until);
    request.log.info({ client, audience }, 'token made');
    return {
      success: true,
      message: 'token made; it lives a few minutes',
      spiffeID: workloadOf(client),
      token: token.reveal(),
    };
  });

  app.post('/api/client/resolve', { bodyLimit: longestBody.names }, async (request) => {
    await authentication.client(request);
    const { clients: names } = checkBody(resolveBody, request.body);
    return { success: true, message: 'who is enrolled', clients: await clients.resolve(names) };
  });

  app.post('/api/client/grants', { bodyLimit: longestBody.names }, async (request) => {
    const client = await authentication.client(request);
    const body = checkBody(permitBody, request.body);
    const granted = await permissions.permit(client, body);
    request.log.info({ client, secret: body.secret, ...granted }, 'grant to clients made');
    return {
      success: true,
      message: 'these clients may use it in their jobs',
      clientID: client,
      spiffeID: formatSpiffeId(spiffeIds.reader(trustDomain, client, body.secret)),
      secrets_path: `client_${client}/${body.secret}`,
      user_role: `client_${client}-${body.secret}`,
      ...granted,
    };
  });
}

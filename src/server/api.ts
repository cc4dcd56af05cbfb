import { Readable } from 'node:stream';
import { fastify, LogController, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { HpcsError, messageOf } from '../errors.ts';
import { formatSpiffeId, spiffeIds } from '../identity/spiffe-id.ts';
import { Secret } from '../secret.ts';
import type { Access } from './access.ts';
import { accessCalls } from './access-api.ts';
import { Authentication } from './authentication.ts';
import { checkBody } from './check-body.ts';
import type { Clients } from './clients.ts';
import type { Grants } from './grants.ts';
import type { Health } from './health.ts';
import type { Jobs } from './jobs.ts';
import type { JwtSvidVerifier } from './jwt-svid.ts';
import { defaultLimits, limitConnections, longestHead, RateLimits, timeouts, TooManyRequests, type Limits } from './limits.ts';
import { requestId, trackRequests } from './log.ts';
import type { Logins } from './logins.ts';
import { Metrics } from './metrics.ts';
import { linesType, reportLines } from './lines.ts';
import { endBody, enrolBody, jobBody, loginBody, nodeBody, nodeQuery, permitBody, redeemBody, registerBody, resolveBody, tokenBody, workloadsBody } from './names.ts'; // prettier-ignore
import { describeApi } from './openapi.ts';
import type { Permissions } from './permissions.ts';
import type { ServerTls } from './tls.ts';

/** What the API serves. */
export interface ApiOptions {
  grants: Grants;
  verifier: JwtSvidVerifier;
  clients: Clients;
  /** Whether a client was removed. Where nobody tells, none was. */
  isRemoved?: (client: string) => Promise<boolean>;
  logins: Logins;
  permissions: Permissions;
  access: Access;
  jobs: Jobs;
  trustDomain: string;
  /** Audiences that a client may have tokens for. */
  audiences: readonly string[];
  /** Mints a token of a client's workload, which lives no longer than until a time. */
  mint: (clientId: string, audience: string, until: Date | undefined) => Promise<Secret>;
  /** Whether a URL (without query) is one under which clients reach this server. */
  isOwn: (url: URL) => boolean;
  /** PEM text of SPIRE's authorities. */
  trustBundle: () => Promise<string>;
  health: Health;
  metrics?: Metrics | undefined;
  limits?: Limits | undefined;
  /** Give identities to anyone who asks, as the original does. */
  allowLegacyRegistration: boolean;
  /** Hosts for whose agents authenticated clients get join tokens. */
  nodes: readonly string[];
  /** Without it the server speaks plain HTTP. */
  tls?: ServerTls | undefined;
  /** Where log lines (JSON) go, or false for none. */
  log: { write(line: string): void } | false;
}

/** A caller can act upon it by himself: with another key. */
const keyEnded = 'key-ended';

/** HTTP status of each error; any other is 502 when a service behind this server refused, 500 when it is our fault. */
const statuses: Readonly<Record<string, number>> = {
  'bad-request': 400,
  unauthenticated: 401,
  forbidden: 403,
  [keyEnded]: 403,
  'secret-missing': 404,
  conflict: 409,
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

/** Bytes of a body. The largest grant allowed fits into the last. */
const longestBody = { usual: 64 * 1024, names: 512 * 1024, readers: 1024 * 1024 };

/** Calls that cost next to nothing, and that must be answered to whoever watches over this server. */
const unlimited = new Set(['/healthz', '/readyz']);

/**
 * The HTTP API: the three calls of the original, with its fields and with proper status codes too, and ours.
 *
 * Every answer is JSON with `success` and, unless all is well, `message`.
 */
export function makeApi(options: ApiOptions): FastifyInstance {
  const { metrics = new Metrics(), limits = defaultLimits, tls } = options;
  const patience = {
    headersTimeout: timeouts.head,
    connectionsCheckingInterval: timeouts.check,
    maxHeaderSize: longestHead,
  };
  const app = fastify({
    // `https: null` is Fastify's word for plain HTTP.
    ...(tls === undefined ? { https: null, http: patience } : { https: { ...patience, ...tls.serverOptions } }),
    bodyLimit: longestBody.usual,
    requestTimeout: timeouts.request,
    keepAliveTimeout: timeouts.keepAlive,
    connectionTimeout: timeouts.idle,
    trustProxy: limits.trustedProxies.length > 0 ? [...limits.trustedProxies] : false,
    genReqId: requestId,
    // Its own lines hold the whole URL.
    logController: new LogController({ disableRequestLogging: true }),
    forceCloseConnections: 'idle',
    logger: options.log === false ? false : { stream: options.log, base: null },
    clientErrorHandler(error, socket) {
      metrics.dropped.inc({ reason: error.code ?? 'unknown' });
      app.log.warn({ code: error.code, from: socket.remoteAddress }, 'connection ended: no request as it should be');
      if (socket.writable) socket.write('HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n');
      socket.destroy(error);
    },
  });

  limitConnections(app.server, limits, metrics, (details) => app.log.warn(details, 'too many connections'));
  trackRequests(app);
  const rates = new RateLimits(app, limits, unlimited);
  const authentication = new Authentication(app, {
    clients: options.clients,
    verifier: options.verifier,
    isOwn: options.isOwn,
    certified: tls === undefined ? undefined : (socket) => tls.client(socket),
    isRemoved: options.isRemoved,
    admit: (request, client) => rates.admit(request, client),
  });
  const codes = new WeakMap<FastifyRequest, string>();
  app.setErrorHandler((error, request, reply) => {
    const known = asHpcsError(error);
    codes.set(request, known.code);
    metrics.refusals.inc({ code: known.code });
    if (known instanceof TooManyRequests) void reply.header('retry-after', known.retryAfter);
    const { status, message } = failure(error, request);
    return fail(reply, status, message, known.code === keyEnded ? keyEnded : undefined);
  });
  app.setNotFoundHandler((_request, reply) => fail(reply, 404, 'no such call'));
  // What is refused unread is not read for its own sake, where it is large.
  app.addHook('onSend', async (request, reply) => {
    const { 'content-length': length, 'transfer-encoding': coding } = request.headers;
    if (reply.statusCode < 400 || request.raw.complete) return;
    if (coding !== undefined || Number(length) > longestBody.usual) void reply.header('connection', 'close');
  });
  // One line for each call, whatever became of it: the audit log. The path alone: a query may hold anything.
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url;
    const call = route === undefined ? 'unknown' : `${request.method} ${route}`;
    metrics.requests.inc({ call, status: reply.statusCode });
    metrics.seconds.observe({ call }, reply.elapsedTime / 1000);
    if (unlimited.has(route ?? '')) return;
    const { statusCode: status } = reply;
    const [path = ''] = request.url.split('?');
    request.log.info(
      {
        audit: status < 400 ? 'done' : status < 500 ? 'refused' : 'failed',
        method: request.method,
        path: path.slice(0, 200),
        status,
        code: codes.get(request),
        caller: authentication.callerOf(request)?.client,
        by: authentication.callerOf(request)?.by,
        from: request.ip,
        ms: Math.round(reply.elapsedTime),
      },
      'answered',
    );
  });

  const legacyOnly = async (): Promise<void> => {
    if (options.allowLegacyRegistration) return;
    throw new HpcsError(
      'identity',
      'forbidden',
      'this server gives no identities to callers it cannot authenticate (it was started without --allow-legacy-registration)',
    );
  };

  const nodesOnly = async (): Promise<void> => {
    if (options.nodes.length === 0) await legacyOnly();
  };

  app.post('/api/client/register', { onRequest: legacyOnly }, async (request) => {
    const { uid } = checkBody(registerBody, request.body);
    const { clientId, spiffeId, joinToken } = await options.grants.register(uid, () => options.clients.reserve());
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
    const client = options.allowLegacyRegistration ? undefined : await authentication.client(request);
    const { hostname } = client === undefined ? checkBody(nodeQuery, request.query) : checkBody(nodeBody, request.body);
    if (client !== undefined && !options.nodes.includes(hostname)) {
      request.log.warn({ client, node: hostname }, 'node token asked for a host that is not allowed');
      throw new HpcsError('identity', 'forbidden', `no tokens for the node ${hostname} here: section [nodes] does not allow it`);
    }
    const { spiffeId, joinToken } = await options.grants.nodeToken(hostname);
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
      const grant = await options.grants.grant(client, body, report);
      request.log.info(
        { client, secret: body.secret, users: body.users, groups: body.groups, nodes: body.compute_nodes.length },
        'grant made',
      );
      return { success: true, message: 'identities, policy and role made', ...grant };
    };
    if (request.headers.accept?.includes(linesType) !== true) return run();
    const lines = reportLines(run, (error) => failure(error, request));
    return reply.type(linesType).send(Readable.from(lines));
  });

  app.post('/api/client/enrol', async (request) => {
    const { token } = checkBody(enrolBody, request.body);
    const proof = await authentication.proof(request);
    using secret = new Secret(token);
    const client = await options.clients.enrol(secret, proof, (who) => rates.admit(request, who));
    request.log.info({ client: client.id, name: client.name, key: proof.thumbprint }, 'key enrolled');
    return {
      success: true,
      message: `enrolled as ${client.name}`,
      client_id: client.id,
      name: client.name,
      spiffeID: formatSpiffeId(spiffeIds.clientWorkload(options.trustDomain, client.id)),
      trust_domain: options.trustDomain,
    };
  });

  app.get('/api/login', async () => ({
    success: true,
    message: 'the issuers whose tokens clients may log in with',
    issuers: options.logins.issuers.list(),
  }));

  app.post('/api/client/login', async (request) => {
    const { id_token } = checkBody(loginBody, request.body);
    const proof = await authentication.proof(request);
    using token = new Secret(id_token);
    const { client, issuer, expires } = await options.logins.login(token, proof, (who) => rates.admit(request, who));
    const { id, name, groups } = client;
    request.log.info({ client: id, name, issuer, groups, key: proof.thumbprint, expires: expires.toISOString() }, 'logged in');
    return {
      success: true,
      message: `logged in as ${name}`,
      client_id: id,
      name,
      spiffeID: formatSpiffeId(spiffeIds.clientWorkload(options.trustDomain, id)),
      trust_domain: options.trustDomain,
      expires: expires.toISOString(),
    };
  });

  app.post('/api/client/logout', async (request) => {
    const { thumbprint } = await authentication.proof(request);
    const client = await authentication.client(request);
    await options.clients.dismiss(thumbprint);
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
    if (!options.audiences.includes(audience)) throw new HpcsError('identity', 'forbidden', `no tokens for ${audience} here`);
    using token = await options.mint(client, audience, until);
    request.log.info({ client, audience }, 'token made');
    return {
      success: true,
      message: 'token made; it lives a few minutes',
      spiffeID: formatSpiffeId(spiffeIds.clientWorkload(options.trustDomain, client)),
      token: token.reveal(),
    };
  });

  app.post('/api/client/resolve', { bodyLimit: longestBody.names }, async (request) => {
    await authentication.client(request);
    const { clients } = checkBody(resolveBody, request.body);
    return { success: true, message: 'who is enrolled', clients: await options.clients.resolve(clients) };
  });

  app.post('/api/client/grants', { bodyLimit: longestBody.names }, async (request) => {
    const client = await authentication.client(request);
    const body = checkBody(permitBody, request.body);
    const granted = await options.permissions.permit(client, body);
    request.log.info({ client, secret: body.secret, ...granted }, 'grant to clients made');
    return {
      success: true,
      message: 'these clients may use it in their jobs',
      clientID: client,
      spiffeID: formatSpiffeId(spiffeIds.reader(options.trustDomain, client, body.secret)),
      secrets_path: `client_${client}/${body.secret}`,
      user_role: `client_${client}-${body.secret}`,
      ...granted,
    };
  });

  app.post('/api/jobs', async (request) => {
    const client = await authentication.client(request);
    const body = checkBody(jobBody, request.body);
    const { spiffeId, expires } = await options.jobs.register(client, body);
    request.log.info({ client, spiffeId, artefacts: body.artefacts.map((one) => one.secret_path), expires }, 'job registered');
    return { success: true, message: 'job registered', spiffeID: spiffeId, expires };
  });

  app.post('/api/jobs/redeem', async (request) => {
    const { halves, job, key } = checkBody(redeemBody, request.body);
    using scriptHalf = new Secret(halves[0]);
    using fileHalf = new Secret(halves[1]);
    const proven = request.headers['dpop'] !== undefined || request.headers.authorization !== undefined;
    const caller = proven ? await authentication.client(request) : undefined;
    const records = await options.jobs.redeem({ scriptHalf, fileHalf, job, key }, caller);
    return { success: true, message: 'records sealed to the key', records: Buffer.from(records).toString('base64') };
  });

  app.post('/api/jobs/end', async (request) => {
    const client = await authentication.client(request);
    const ended = await options.jobs.end(client, checkBody(endBody, request.body).ticket);
    return { success: true, message: 'job ended', ...ended };
  });

  accessCalls(app, authentication, options.access);

  app.get('/api/capabilities', async () => ({
    success: true,
    message: 'what this server can beyond the calls of the original',
    capabilities: [
      'enrol',
      'grants',
      'jobs',
      'access',
      ...(options.logins.issuers.list().length > 0 ? ['login'] : []),
      ...(tls === undefined ? [] : ['x509-svid']),
    ],
    trust_domain: options.trustDomain,
  }));

  app.get('/api/trust-bundle', async () => ({
    success: true,
    message: 'the authorities of the SPIRE server',
    trust_bundle: await options.trustBundle(),
  }));

  app.get('/healthz', async () => ({ success: true }));

  app.get('/readyz', async (_request, reply) => {
    const { ready, parts } = await options.health.readiness();
    return reply.code(ready ? 200 : 503).send({ success: ready, ...parts });
  });

  describeApi(app);
  return app;
}

/** What a caller is told of an error, which is logged. */
function failure(error: unknown, request: FastifyRequest): { status: number; message: string } {
  const known = asHpcsError(error);
  const status = statuses[known.code] ?? (known.kind === 'bug' ? 500 : 502);
  if (status >= 500) {
    const { code, message: reason, suggestion } = known;
    request.log.error({ code, reason, suggestion, cause: causes(known) }, 'request failed');
  } else request.log.warn({ code: known.code, reason: known.message }, 'request refused');
  // What happened inside is for the log; a caller learns what it can act upon.
  return { status, message: known.kind === 'bug' ? 'internal error; see the log of the server' : known.message };
}

function fail(reply: FastifyReply, status: number, message: string, code?: typeof keyEnded): FastifyReply {
  return reply.code(status).send({ success: false, message, ...(code !== undefined && { code }) });
}

// Fastify's own errors (body too large, not JSON, …) carry the status of a client's fault.
function asHpcsError(error: unknown): HpcsError {
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

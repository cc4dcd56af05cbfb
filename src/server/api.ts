import { fastify, LogController, type FastifyInstance, type FastifyRequest } from 'fastify';
import type { Access } from './access.ts';
import { accessCalls } from './access-api.ts';
import { Authentication } from './authentication.ts';
import { clientCalls, type ClientServices } from './clients-api.ts';
import { asHpcsError, fail, failure, keyEnded } from './failures.ts';
import type { Jobs } from './jobs.ts';
import { jobCalls } from './jobs-api.ts';
import type { JwtSvidVerifier } from './jwt-svid.ts';
import { defaultLimits, limitConnections, longestBody, longestHead, RateLimits, timeouts, TooManyRequests, type Limits } from './limits.ts'; // prettier-ignore
import { requestId, trackRequests } from './log.ts';
import { Metrics } from './metrics.ts';
import { describeApi } from './openapi.ts';
import { originalCalls, type OriginalServices } from './original-api.ts';
import { statusCalls, type StatusServices } from './status-api.ts';

/** What the API serves. */
export interface ApiOptions extends OriginalServices, ClientServices, StatusServices {
  verifier: JwtSvidVerifier;
  /** Whether a client was removed. Where nobody tells, none was. */
  isRemoved?: (client: string) => Promise<boolean>;
  access: Access;
  jobs: Jobs;
  /** Whether a URL (without query) is one under which clients reach this server. */
  isOwn: (url: URL) => boolean;
  metrics?: Metrics | undefined;
  limits?: Limits | undefined;
  /** Where log lines (JSON) go, or false for none. */
  log: { write(line: string): void } | false;
}

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
  auditCalls(app, authentication, { metrics, codes });

  originalCalls(app, authentication, options);
  clientCalls(app, authentication, rates, options);
  jobCalls(app, authentication, options.jobs);
  accessCalls(app, authentication, options.access);
  statusCalls(app, options);
  describeApi(app);
  return app;
}

/** One line for each call, whatever became of it: the audit log. */
function auditCalls(
  app: FastifyInstance,
  authentication: Authentication,
  { metrics, codes }: { metrics: Metrics; codes: WeakMap<FastifyRequest, string> },
): void {
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url;
    const call = route === undefined ? 'unknown' : `${request.method} ${route}`;
    metrics.requests.inc({ call, status: reply.statusCode });
    metrics.seconds.observe({ call }, reply.elapsedTime / 1000);
    if (unlimited.has(route ?? '')) return;
    const { statusCode: status } = reply;
    // The path alone: a query may hold anything.
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
}

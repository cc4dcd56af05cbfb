import { fastify, LogController, type FastifyInstance } from 'fastify';
import type { Access } from './access.ts';
import { accessCalls } from './access-api.ts';
import { Audit } from './audit.ts';
import { Authentication } from './authentication.ts';
import { clientCalls, type ClientServices } from './clients-api.ts';
import { asHpcsError, fail, toldCode } from './failures.ts';
import type { Jobs } from './jobs.ts';
import { jobCalls } from './jobs-api.ts';
import type { JwtSvidVerifier } from './jwt-svid.ts';
import { defaultLimits, limitConnections, longestBody, longestHead, RateLimits, timeouts, TooManyRequests, type Limits } from './limits.ts'; // prettier-ignore
import { requestId, trackRequests, type LogStream } from './log.ts';
import { Metrics } from './metrics.ts';
import { describeApi } from './openapi.ts';
import { originalCalls, type OriginalServices } from './original-api.ts';
import { statusCalls, type StatusServices } from './status-api.ts';
import { UnderWay } from './under-way.ts';

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
  /** Told of the requests. */
  underWay?: UnderWay | undefined;
  /** Where log lines (JSON) go, or false for none. */
  log: LogStream | false;
}

/** Calls that cost next to nothing, and that must be answered to whoever watches over this server. */
const unlimited = new Set(['/healthz', '/readyz']);

/**
 * The HTTP API: the three calls of the original, with its fields and with proper status codes too, and ours.
 *
 * Every answer is JSON with `success` and, unless all is well, `message`.
 */
export function makeApi(options: ApiOptions): FastifyInstance {
  const { metrics = new Metrics(), limits = defaultLimits, underWay = new UnderWay(), tls } = options;
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
  const audit = new Audit({ metrics, callerOf: (request) => authentication.callerOf(request), silent: unlimited });
  underWay.follow(app, (end) => audit.ended(end));
  const rates = new RateLimits(app, limits, unlimited);
  const authentication = new Authentication(app, {
    clients: options.clients,
    verifier: options.verifier,
    isOwn: options.isOwn,
    certified: tls === undefined ? undefined : (socket) => tls.client(socket),
    isRemoved: options.isRemoved,
    admit: (request, client) => rates.admit(request, client),
  });
  app.setErrorHandler((error, request, reply) => {
    const known = asHpcsError(error);
    if (known instanceof TooManyRequests) void reply.header('retry-after', known.retryAfter);
    const { status, message } = audit.failure(error, request);
    return fail(reply, status, message, toldCode(known));
  });
  app.setNotFoundHandler((_request, reply) => fail(reply, 404, 'no such call'));
  // What is refused unread is not read for its own sake, where it is large.
  app.addHook('onSend', async (request, reply) => {
    const { 'content-length': length, 'transfer-encoding': coding } = request.headers;
    if (reply.statusCode < 400 || request.raw.complete) return;
    if (coding !== undefined || Number(length) > longestBody.usual) void reply.header('connection', 'close');
  });

  originalCalls(app, authentication, { audit, underWay }, options);
  clientCalls(app, authentication, rates, options);
  jobCalls(app, authentication, options.jobs);
  accessCalls(app, authentication, options.access);
  statusCalls(app, options);
  describeApi(app);
  return app;
}

import { decodeJwt } from 'jose';
import { HpcsError } from '../errors.ts';
import { pause } from '../pause.ts';
import type { Messages } from '../protobuf.ts';
import { Secret } from '../secret.ts';
import { GrpcClient, GrpcError, grpcStatus, type MethodDescriptor } from './grpc.ts';

/** @see SPIFFE Workload API, Appendix A (workload.proto) */
const methods: Record<string, MethodDescriptor> = {
  FetchJWTSVID: { requestType: 'JWTSVIDRequest', responseType: 'JWTSVIDResponse' },
  FetchX509SVID: { requestType: 'X509SVIDRequest', responseType: 'X509SVIDResponse', responseStream: true },
};
const messages: Messages = {
  JWTSVIDRequest: {
    fields: { audience: { rule: 'repeated', type: 'string', id: 1 }, spiffeId: { type: 'string', id: 2 } },
  },
  JWTSVIDResponse: { fields: { svids: { rule: 'repeated', type: 'JWTSVID', id: 1 } } },
  JWTSVID: { fields: { spiffeId: { type: 'string', id: 1 }, svid: { type: 'string', id: 2 } } },
  X509SVIDRequest: { fields: {} },
  X509SVIDResponse: { fields: { svids: { rule: 'repeated', type: 'X509SVID', id: 1 } } },
  X509SVID: {
    fields: {
      spiffeId: { type: 'string', id: 1 },
      x509Svid: { type: 'bytes', id: 2 },
      x509SvidKey: { type: 'bytes', id: 3 },
      bundle: { type: 'bytes', id: 4 },
    },
  },
};

/** What every call of the Workload API needs. */
export interface WorkloadApiOptions {
  /** `unix:///path`, `unix:/path`, `tcp://ip:port`, or a plain absolute path. */
  socket: string;
  /** Longest time to wait for an identity, in milliseconds. Default 30 s: a fresh entry takes 5 to 10 s to reach an agent. */
  timeout?: number;
  signal?: AbortSignal | undefined;
}

/** A JWT that proves a SPIFFE identity to one audience. */
export interface JwtSvid {
  spiffeId: string;
  token: Secret;
  expires: Date;
}

/**
 * Fetches JWT-SVIDs of the calling process from a SPIFFE Workload API.
 *
 * @param options.audience whom the tokens are for; at least one
 * @param options.spiffeId only this identity; otherwise all the caller has
 * @returns at least one
 * @throws HpcsError `identity`: no identity within the time, or the API cannot be reached
 */
export async function fetchJwtSvids(
  options: WorkloadApiOptions & { audience: readonly string[]; spiffeId?: string | undefined },
): Promise<JwtSvid[]> {
  const answer = await ask(options, (client, timeout) =>
    client.call<{ svids: { spiffeId: string; svid: string }[] }>(
      'FetchJWTSVID',
      { audience: options.audience, spiffeId: options.spiffeId ?? '' },
      { timeout, metadata, signal: options.signal },
    ),
  );
  return answer.svids.map(({ spiffeId, svid }) => ({
    spiffeId,
    token: new Secret(svid),
    expires: new Date((decodeJwt(svid).exp ?? 0) * 1000),
  }));
}

/** A certificate that proves a SPIFFE identity, as the Workload API gives it: all DER. */
export interface X509SvidMessage {
  spiffeId: string;
  /** The certificate, then those between it and an authority. */
  x509Svid: Buffer;
  /** PKCS #8. */
  x509SvidKey: Buffer;
  /** Authorities of the trust domain. */
  bundle: Buffer;
}

/**
 * The X.509-SVIDs of the calling process, now and each time that they are renewed, for as long as the API is there.
 *
 * @throws HpcsError `identity` when there are none, or the API is gone
 */
export async function* streamX509Svids(options: Omit<WorkloadApiOptions, 'timeout'>): AsyncGenerator<X509SvidMessage[], void> {
  using client = new GrpcClient(socketTarget(options.socket), 'SpiffeWorkloadAPI', methods, messages);
  try {
    for await (const answer of client.stream<{ svids: X509SvidMessage[] }>(
      'FetchX509SVID',
      {},
      { metadata, signal: options.signal },
    ))
      yield answer.svids;
  } catch (error) {
    throw error instanceof GrpcError ? translate(error, options.socket) : error;
  }
}

/**
 * The gRPC name of a Workload API address.
 *
 * @see SPIFFE Workload Endpoint, 4 (locating the endpoint)
 * @throws HpcsError `usage` for an address of another form
 */
export function socketTarget(socket: string): string {
  if (/^\/[^\0]*$/.test(socket)) return `unix:${socket}`;
  const [, path] = /^unix:(?:\/\/)?(\/[^/\0?#][^\0?#]*)$/.exec(socket) ?? [];
  if (path !== undefined) return `unix:${path}`;
  const [, four, six, port] = /^tcp:\/\/(?:(\d+\.\d+\.\d+\.\d+)|\[([0-9a-fA-F:.]+)\]):(\d{1,5})$/.exec(socket) ?? [];
  if (four !== undefined) return `ipv4:${four}:${port}`;
  if (six !== undefined) return `ipv6:[${six}]:${port}`;
  throw new HpcsError('usage', 'socket-address-invalid', `not the address of a Workload API: ${socket}`, {
    suggestion: 'SPIFFE_ENDPOINT_SOCKET must be unix:///absolute/path or tcp://ip:port',
  });
}

// Required by the specification, so that a forged request of a web page cannot reach the socket.
const metadata = { 'workload.spiffe.io': 'true' };
const patience = 500;

async function ask<Answer>(
  options: WorkloadApiOptions,
  call: (client: GrpcClient, timeout: number) => Promise<Answer>,
): Promise<Answer> {
  using client = new GrpcClient(socketTarget(options.socket), 'SpiffeWorkloadAPI', methods, messages);
  const end = Date.now() + (options.timeout ?? 30_000);
  for (;;) {
    try {
      return await call(client, Math.max(1, end - Date.now()));
    } catch (error) {
      if (!(error instanceof GrpcError)) throw error;
      // The entry has not reached the agent yet.
      if (error.code === grpcStatus.PERMISSION_DENIED && Date.now() + patience < end) {
        await pause(patience, options.signal);
        continue;
      }
      throw translate(error, options.socket);
    }
  }
}

function translate(error: GrpcError, socket: string): HpcsError {
  if (error.code === grpcStatus.PERMISSION_DENIED) return noIdentity(socket, error);
  // An agent that cannot tell who called closes the connection at once; grpc-js then has no system error to name.
  if (/server preface|ECONNRESET|EPIPE|Connection dropped|Failed to connect/.test(error.details)) {
    return new HpcsError('identity', 'workload-api-refused', `the SPIRE agent at ${socket} closed the connection`, {
      cause: error,
      suggestion: 'the agent must see this process, in the PID namespace that it is in (compose: pid: host for the agent)',
    });
  }
  if (error.code === grpcStatus.UNAVAILABLE) {
    const [code = error.details] = /\bE[A-Z]{3,}\b/.exec(error.details) ?? [];
    return new HpcsError('identity', 'workload-api-unreachable', `no SPIRE agent answers at ${socket} (${code})`, {
      cause: error,
      suggestion: 'check SPIFFE_ENDPOINT_SOCKET and that the agent runs; without that variable an agent is started',
    });
  }
  return new HpcsError('identity', 'workload-api-failed', `the SPIRE agent at ${socket} failed: ${error.message}`, {
    cause: error,
    suggestion: "look into the agent's log",
  });
}

function noIdentity(socket: string, cause?: unknown): HpcsError {
  return new HpcsError('identity', 'no-identity', `the SPIRE agent at ${socket} issued no identity to this process`, {
    cause,
    suggestion: 'check that an entry exists whose selectors fit this user and program (spire-server entry show)',
  });
}

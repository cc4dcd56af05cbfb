import { Channel, Client, Metadata, credentials, status, type ChannelCredentials, type MethodDefinition, type ServiceError } from '@grpc/grpc-js'; // prettier-ignore
import { fromJSON, type AnyDefinition } from '@grpc/proto-loader';
import { HpcsError } from '../errors.ts';
import type { Messages } from '../protobuf.ts';
import type { Secret } from '../secret.ts';

/** Request and response type of one method. */
export interface MethodDescriptor {
  requestType: string;
  responseType: string;
  /** Answers keep coming. */
  responseStream?: boolean;
}

/** An answer with a gRPC status other than OK. Translated by the caller, who knows what was asked. */
export class GrpcError extends Error {
  override readonly name = 'GrpcError';
  readonly code: status;
  readonly details: string;

  constructor(error: Pick<ServiceError, 'code' | 'details'>) {
    super(`${status[error.code] ?? error.code}: ${error.details}`);
    this.code = error.code;
    this.details = error.details;
  }
}

export { status as grpcStatus };

/** How one call is made. */
export interface CallOptions {
  /** Longest time for the call, in milliseconds. */
  timeout: number;
  metadata?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

/** TLS of a connection between two SPIFFE identities. @see SPIFFE X509-SVID, 5 (validation) */
export interface SpiffeTls {
  /** PEM of the trust domain's authorities. */
  authorities: string;
  /** PEM of the own certificate, with what is between it and the authority. */
  certificate: string;
  /** PEM of its key. */
  key: Secret;
  /** The identity that the server must have: no host name counts. */
  server: string;
}

/**
 * Opens a connection that clients of several services may share; nothing is sent yet.
 *
 * @param target gRPC name, for example `unix:/run/spire/api.sock`
 * @param tls without it the target must be a local socket
 */
export function openChannel(target: string, tls?: SpiffeTls): Channel {
  return new Channel(target, tls === undefined ? credentials.createInsecure() : mutualTls(tls), {
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 2000,
    'grpc.enable_http_proxy': 0,
    'grpc.use_local_subchannel_pool': 1,
  });
}
export type { Channel };

/**
 * A client of one gRPC service: on a local socket without TLS, where the socket's permissions and the peer's credentials are the
 * protection, or between two SPIFFE identities.
 */
export class GrpcClient implements Disposable {
  readonly #client: Client;
  readonly #service: Record<string, MethodDefinition<object, object>>;

  /**
   * @param to gRPC name of a local socket, or a connection, which is closed with the client
   * @param service full name of the service, for example `spire.api.server.entry.v1.Entry`
   * @param methods the service's methods
   * @param messages all messages; their names are not on the wire, so one flat namespace does
   */
  constructor(to: string | Channel, service: string, methods: Record<string, MethodDescriptor>, messages: Messages) {
    // A service may be named like a message, so the messages have a package to themselves.
    const nested = { messages: { nested: messages }, ...nest(service.split('.'), { methods: qualify(methods) }) };
    const definitions = fromJSON({ nested }, { longs: Number, defaults: true, arrays: true });
    const definition: AnyDefinition | undefined = definitions[service];
    if (definition === undefined) throw new HpcsError('bug', 'bug', `no descriptor of the service ${service}`);
    this.#service = definition as unknown as Record<string, MethodDefinition<object, object>>;
    const channelOverride = typeof to === 'string' ? openChannel(to) : to;
    // The channel has its own target and credentials; those here count for nothing.
    this.#client = new Client('', credentials.createInsecure(), { channelOverride });
  }

  /** Calls a method and waits for its answer. @throws GrpcError; the signal's reason when aborted */
  call<Answer extends object>(method: string, request: object, options: CallOptions): Promise<Answer> {
    const definition = this.#method(method);
    return new Promise<Answer>((resolve, reject) => {
      options.signal?.throwIfAborted();
      const call = this.#client.makeUnaryRequest(
        definition.path,
        definition.requestSerialize,
        definition.responseDeserialize,
        request,
        metadataOf(options),
        { deadline: Date.now() + options.timeout },
        (error, answer) => {
          options.signal?.removeEventListener('abort', abort);
          if (options.signal?.aborted) reject(options.signal.reason as Error);
          else if (error !== null) reject(new GrpcError(error));
          else if (answer === undefined) reject(new GrpcError({ code: status.INTERNAL, details: 'empty answer' }));
          else resolve(answer as Answer);
        },
      );
      const abort = (): void => call.cancel();
      options.signal?.addEventListener('abort', abort, { once: true });
    });
  }

  /** Calls a method whose answers keep coming. @throws GrpcError; the signal's reason when aborted */
  async *stream<Answer extends object>(
    method: string,
    request: object,
    options: Omit<CallOptions, 'timeout'>,
  ): AsyncGenerator<Answer, void> {
    const definition = this.#method(method);
    options.signal?.throwIfAborted();
    const call = this.#client.makeServerStreamRequest(
      definition.path,
      definition.requestSerialize,
      definition.responseDeserialize,
      request,
      metadataOf(options),
    );
    const abort = (): void => call.cancel();
    options.signal?.addEventListener('abort', abort, { once: true });
    try {
      for await (const answer of call) yield answer as Answer;
    } catch (error) {
      options.signal?.throwIfAborted();
      throw error instanceof Error && 'code' in error ? new GrpcError(error as ServiceError) : error;
    } finally {
      options.signal?.removeEventListener('abort', abort);
      call.cancel();
    }
  }

  #method(name: string): MethodDefinition<object, object> {
    const definition = this.#service[name];
    if (definition === undefined) throw new HpcsError('bug', 'bug', `no descriptor of the method ${name}`);
    return definition;
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }
}

function mutualTls({ authorities, certificate, key, server }: SpiffeTls): ChannelCredentials {
  return credentials.createSsl(Buffer.from(authorities), Buffer.from(key.bytes()), Buffer.from(certificate), {
    // The chain was verified before this is asked.
    checkServerIdentity: (_host, { subjectaltname = '' }) =>
      subjectaltname === `URI:${server}` ? undefined : new Error(`the server is not ${server} but ${subjectaltname}`),
  });
}

function nest([first = '', ...rest]: string[], leaf: object): Record<string, object> {
  return { [first]: rest.length === 0 ? leaf : { nested: nest(rest, leaf) } };
}

function qualify(methods: Record<string, MethodDescriptor>): Record<string, MethodDescriptor> {
  return Object.fromEntries(
    Object.entries(methods).map(([name, { requestType, responseType, ...rest }]) => [
      name,
      { requestType: `.messages.${requestType}`, responseType: `.messages.${responseType}`, ...rest },
    ]),
  );
}

function metadataOf(options: Pick<CallOptions, 'metadata'>): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(options.metadata ?? {})) metadata.set(name, value);
  return metadata;
}

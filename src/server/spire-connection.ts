import { GrpcClient, GrpcError, grpcStatus, openChannel, type CallOptions, type Channel, type Messages, type MethodDescriptor } from '../identity/grpc.ts'; // prettier-ignore
import { formatSpiffeId } from '../identity/spiffe-id.ts';
import type { TrustingSvid } from '../identity/x509-svid.ts';
import { Secret } from '../secret.ts';

/**
 * How the SPIRE server is reached: over its private socket, where every caller is its administrator; or over the network with an
 * identity, to which SPIRE's authorization policy allows what it allows.
 */
export type SpireReach =
  { socket: string } | { address: string; port: number; trustDomain: string; svid: () => Promise<TrustingSvid> };

/** A connection that was replaced is kept for calls that are under way on it, in milliseconds. */
const linger = 60_000;
/**
 * A connection is replaced no sooner than this after it was made, however many calls fail on it, and after twice as long each time that
 * the next fared no better, in milliseconds: each takes memory, and tries again by itself.
 */
const pace = { first: 1000, longest: 10_000 };

/**
 * The connection to a SPIRE server, one for all services, so that what works for one works for the others. It is made anew with a new
 * identity when half of the time of the one in use is over, and when calls on it find nobody.
 */
export class SpireConnection implements Disposable {
  readonly #reach: SpireReach;
  #dialled: Promise<Channel> | undefined;
  #channel: Channel | undefined;
  readonly #retired = new Set<() => void>();
  #madeAt = 0;
  #pace = pace.first;
  #renewAt = 0;

  constructor(reach: SpireReach) {
    this.#reach = reach;
  }

  /** The connection to call on now. @throws HpcsError `identity` where there is no identity to call with */
  dial(): Promise<Channel> {
    if (this.#dialled !== undefined && Date.now() < this.#renewAt) return this.#dialled;
    this.#renewAt = Number.POSITIVE_INFINITY;
    this.#retire();
    this.#dialled = this.#dial().catch((error: unknown) => {
      this.#renewAt = 0;
      throw error;
    });
    return this.#dialled;
  }

  /**
   * Makes another connection before the next call: on this one nobody answered, which may be for its identity, or for a network that
   * lost it without telling.
   */
  forget(channel: Channel): void {
    if (channel === this.#channel) this.#renewAt = Math.min(this.#renewAt, this.#madeAt + this.#pace);
  }

  /** Somebody answered on the connection. */
  answered(): void {
    this.#pace = pace.first;
  }

  async #dial(): Promise<Channel> {
    const { channel, renewAt } = await this.#open();
    this.#channel = channel;
    this.#madeAt = Date.now();
    this.#pace = Math.min(this.#pace * 2, pace.longest);
    this.#renewAt = renewAt;
    return channel;
  }

  #retire(): void {
    const old = this.#channel;
    if (old === undefined) return;
    this.#channel = undefined;
    const close = (): void => {
      this.#retired.delete(close);
      old.close();
    };
    this.#retired.add(close);
    setTimeout(close, linger).unref();
  }

  async #open(): Promise<{ channel: Channel; renewAt: number }> {
    if ('socket' in this.#reach) return { channel: openChannel(`unix:${this.#reach.socket}`), renewAt: Number.POSITIVE_INFINITY };
    const { address, port, trustDomain, svid } = this.#reach;
    const { cert: certificate, key, authorities, expires } = await svid();
    const server = formatSpiffeId({ trustDomain, path: '/spire/server' });
    const tls = { authorities, certificate, key: new Secret(key), server };
    const renewAt = Date.now() + Math.max(1000, (expires.getTime() - Date.now()) / 2);
    return { channel: openChannel(`dns:${address}:${port}`, tls), renewAt };
  }

  [Symbol.dispose](): void {
    this.#retire();
    for (const close of this.#retired) close();
  }
}

/** One service of a SPIRE server. */
export class SpireService {
  readonly #connection: SpireConnection;
  readonly #name: string;
  readonly #methods: Record<string, MethodDescriptor>;
  readonly #messages: Messages;
  #client: { channel: Channel; client: GrpcClient } | undefined;

  /**
   * @param connection owned by the caller
   * @param name its full name, for example `spire.api.server.entry.v1.Entry`
   */
  constructor(connection: SpireConnection, name: string, methods: Record<string, MethodDescriptor>, messages: Messages) {
    this.#connection = connection;
    this.#name = name;
    this.#methods = methods;
    this.#messages = messages;
  }

  /** Calls a method and waits for its answer. @throws GrpcError; HpcsError `identity` where there is no identity to call with */
  async call<Answer extends object>(method: string, request: object, options: CallOptions): Promise<Answer> {
    const channel = await this.#connection.dial();
    if (this.#client?.channel !== channel)
      this.#client = { channel, client: new GrpcClient(channel, this.#name, this.#methods, this.#messages) };
    try {
      const answer = await this.#client.client.call<Answer>(method, request, options);
      this.#connection.answered();
      return answer;
    } catch (error) {
      if (error instanceof GrpcError && nobody.has(error.code)) this.#connection.forget(channel);
      throw error;
    }
  }
}

/** What calls end with where nobody answers. A connection that a firewall has lost, or whose other end is gone, stays silent. */
const nobody: ReadonlySet<number> = new Set([grpcStatus.UNAVAILABLE, grpcStatus.DEADLINE_EXCEEDED]);

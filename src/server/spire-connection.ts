import { GrpcClient, GrpcError, grpcStatus, openChannel, type CallOptions, type Channel, type MethodDescriptor } from '../identity/grpc.ts'; // prettier-ignore
import { formatSpiffeId } from '../identity/spiffe-id.ts';
import type { TrustingSvid } from '../identity/x509-svid.ts';
import type { Messages } from '../protobuf.ts';
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
/** Where there is no new identity although the old one is half over, it is asked for again after this long, in milliseconds. */
const again = 5000;

/**
 * The connection to a SPIRE server, one for all services, so that what works for one works for the others. It is made anew with a new
 * identity when half of the time of the one in use is over, and when calls on it find nobody.
 */
export class SpireConnection implements Disposable {
  readonly #reach: SpireReach;
  readonly #now: () => number;
  /** The connection that is being made. */
  #dialling: Promise<Channel> | undefined;
  #channel: Channel | undefined;
  readonly #retired = new Set<() => void>();
  #madeAt = 0;
  #pace = pace.first;
  #renewAt = 0;
  /** When the identity of the one in use ends. */
  #endsAt = 0;
  /** Nobody answered on the one in use. */
  #forgotten = false;

  /** @param now the time, in milliseconds since 1970 */
  constructor(reach: SpireReach, now: () => number = Date.now) {
    this.#reach = reach;
    this.#now = now;
  }

  /**
   * The connection to call on now. One whose identity still counts is used while the next is made, and when none can be: the agent that
   * gives identities may be away for a while.
   *
   * @throws HpcsError `identity` where there is no identity to call with
   */
  async dial(): Promise<Channel> {
    const current = this.#channel;
    if (current !== undefined && this.#now() < this.#renewAt) return current;
    this.#dialling ??= this.#dial().finally(() => (this.#dialling = undefined));
    if (current === undefined || !this.#isGood()) return this.#dialling;
    // It says by itself when it wants to be tried again.
    this.#dialling.catch(() => undefined);
    return current;
  }

  /**
   * Makes another connection before the next call: on this one nobody answered, which may be for its identity, or for a network that
   * lost it without telling.
   */
  forget(channel: Channel): void {
    if (channel !== this.#channel) return;
    this.#forgotten = true;
    this.#renewAt = Math.min(this.#renewAt, this.#madeAt + this.#pace);
  }

  /** Somebody answered on the connection. */
  answered(): void {
    this.#pace = pace.first;
  }

  #isGood(): boolean {
    return !this.#forgotten && this.#now() < this.#endsAt;
  }

  async #dial(): Promise<Channel> {
    try {
      const { channel, renewAt, endsAt } = await this.#open();
      this.#retire();
      this.#channel = channel;
      this.#madeAt = this.#now();
      this.#pace = Math.min(this.#pace * 2, pace.longest);
      this.#renewAt = renewAt;
      this.#endsAt = endsAt;
      this.#forgotten = false;
      return channel;
    } catch (error) {
      this.#renewAt = this.#isGood() ? Math.min(this.#now() + again, this.#endsAt) : 0;
      throw error;
    }
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

  async #open(): Promise<{ channel: Channel; renewAt: number; endsAt: number }> {
    if ('socket' in this.#reach) {
      const never = Number.POSITIVE_INFINITY;
      return { channel: openChannel(`unix:${this.#reach.socket}`), renewAt: never, endsAt: never };
    }
    const { address, port, trustDomain, svid } = this.#reach;
    const { cert: certificate, key, authorities, expires } = await svid();
    const server = formatSpiffeId({ trustDomain, path: '/spire/server' });
    const tls = { authorities, certificate, key: new Secret(key), server };
    const endsAt = expires.getTime();
    const renewAt = this.#now() + Math.max(1000, (endsAt - this.#now()) / 2);
    return { channel: openChannel(`dns:${address}:${port}`, tls), renewAt, endsAt };
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

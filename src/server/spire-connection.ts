import { GrpcClient, GrpcError, grpcStatus, type CallOptions, type Messages, type MethodDescriptor, type SpiffeTls } from '../identity/grpc.ts'; // prettier-ignore
import { formatSpiffeId } from '../identity/spiffe-id.ts';
import type { TrustingSvid } from '../identity/x509-svid.ts';
import { Secret } from '../secret.ts';

/**
 * How the SPIRE server is reached: over its private socket, where every caller is its administrator; or over the network with an
 * identity, to which SPIRE's authorization policy allows what it allows.
 */
export type SpireReach =
  { socket: string } | { address: string; port: number; trustDomain: string; svid: () => Promise<TrustingSvid> };

/** A way to a SPIRE server, with an identity that is renewed when half of its time is over. */
export class SpireConnection {
  readonly #reach: SpireReach;
  #dialled: Promise<Dialled> | undefined;
  #renewAt = 0;

  constructor(reach: SpireReach) {
    this.#reach = reach;
  }

  /** Where to call now, and as whom. @throws HpcsError `identity` where there is no identity to call with */
  dial(): Promise<Dialled> {
    if (this.#dialled !== undefined && Date.now() < this.#renewAt) return this.#dialled;
    this.#renewAt = Number.POSITIVE_INFINITY;
    this.#dialled = this.#dial().catch((error: unknown) => {
      this.#renewAt = 0;
      throw error;
    });
    return this.#dialled;
  }

  /** Fetches the identity anew before the next call: the one in use was not taken. */
  forget(): void {
    if (!('socket' in this.#reach)) this.#renewAt = 0;
  }

  async #dial(): Promise<Dialled> {
    if ('socket' in this.#reach) return { target: `unix:${this.#reach.socket}` };
    const { address, port, trustDomain, svid } = this.#reach;
    const { cert: certificate, key, authorities, expires } = await svid();
    this.#renewAt = Date.now() + Math.max(1000, (expires.getTime() - Date.now()) / 2);
    const server = formatSpiffeId({ trustDomain, path: '/spire/server' });
    return { target: `dns:${address}:${port}`, tls: { authorities, certificate, key: new Secret(key), server } };
  }
}

interface Dialled {
  target: string;
  tls?: SpiffeTls;
}

/** One service of a SPIRE server. */
export class SpireService implements Disposable {
  readonly #connection: SpireConnection;
  readonly #name: string;
  readonly #methods: Record<string, MethodDescriptor>;
  readonly #messages: Messages;
  #client: { dialled: Dialled; client: GrpcClient } | undefined;

  /** @param name its full name, for example `spire.api.server.entry.v1.Entry` */
  constructor(connection: SpireConnection, name: string, methods: Record<string, MethodDescriptor>, messages: Messages) {
    this.#connection = connection;
    this.#name = name;
    this.#methods = methods;
    this.#messages = messages;
  }

  /** Calls a method and waits for its answer. @throws GrpcError; HpcsError `identity` where there is no identity to call with */
  async call<Answer extends object>(method: string, request: object, options: CallOptions): Promise<Answer> {
    const dialled = await this.#connection.dial();
    if (this.#client?.dialled !== dialled) {
      // Calls that are under way on the old one come to their end.
      const old = this.#client?.client;
      setTimeout(() => old?.[Symbol.dispose](), options.timeout).unref();
      const client = new GrpcClient(dialled.target, this.#name, this.#methods, this.#messages, dialled.tls);
      this.#client = { dialled, client };
    }
    try {
      return await this.#client.client.call<Answer>(method, request, options);
    } catch (error) {
      if (error instanceof GrpcError && error.code === grpcStatus.UNAVAILABLE) this.#connection.forget();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#client?.client[Symbol.dispose]();
    this.#client = undefined;
  }
}

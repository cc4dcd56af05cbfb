import type { Duplex } from 'node:stream';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { HpcsError } from '../errors.ts';
import { verifyProof, type Proof } from '../identity/proof.ts';
import type { Clients } from './clients.ts';
import type { JwtSvidVerifier } from './jwt-svid.ts';

/** Whom callers are held for, and by what. */
export interface AuthenticationOptions {
  clients: Clients;
  verifier: JwtSvidVerifier;
  isOwn: (url: URL) => boolean;
  /** The client whose X.509-SVID the connection was made with. @throws HpcsError as {@link Authentication.client} */
  certified?: ((socket: Duplex) => string | undefined) | undefined;
  /** Whether a client was removed, which its X.509-SVID, made by SPIRE before, does not know. */
  isRemoved?: ((client: string) => Promise<boolean>) | undefined;
  /** Asked before a client is served, and before anything is written down for it. @throws HpcsError where it may not be, for now */
  admit?: ((request: FastifyRequest, client: string) => Promise<void>) | undefined;
}

/** Who called, and what showed it. */
export interface Caller {
  client: string;
  by: 'key' | 'jwt-svid' | 'x509-svid';
  /** End of the session of a key that came with a login. */
  until?: Date | undefined;
}

/**
 * Finds out who calls: by a proof of possession in the header `DPoP`; by a JWT-SVID in `Authorization: Bearer`, or else the X.509-SVID
 * of the connection, which clients with a SPIRE agent have. Nothing else that a caller sends counts.
 */
export class Authentication {
  readonly #options: AuthenticationOptions;
  /** Bodies as they came: a proof covers their bytes. */
  readonly #bodies = new WeakMap<FastifyRequest, Buffer>();
  readonly #callers = new WeakMap<FastifyRequest, Caller>();

  constructor(app: FastifyInstance, options: AuthenticationOptions) {
    this.#options = options;
    const parse = app.getDefaultJsonParser('error', 'error');
    app.removeContentTypeParser('application/json');
    app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body: Buffer, done) => {
      this.#bodies.set(request, body);
      void parse(request, body.toString('utf8'), done);
    });
  }

  /**
   * The id of the client that calls.
   *
   * @throws HpcsError `identity` with code `unauthenticated`, `forbidden` or `too-many-requests`
   */
  async client(request: FastifyRequest): Promise<string> {
    if (request.headers['dpop'] === undefined) return this.#admitted(request, await this.#caller(request));
    const proof = await this.#verify(request);
    const { clients } = this.#options;
    const { id, until } = await clients.authenticate(proof, (client) => this.#admit(request, { client, by: 'key' }));
    this.#callers.set(request, { client: id, by: 'key', until });
    return id;
  }

  /** The id of the client whose JWT-SVID stands in the body, as in the original. @throws HpcsError as {@link Authentication.client} */
  async holder(request: FastifyRequest, jwt: string): Promise<string> {
    return this.#admitted(request, { client: await this.#options.verifier.client(jwt), by: 'jwt-svid' });
  }

  /** Who a request was found to come from, if that was asked. */
  callerOf(request: FastifyRequest): Caller | undefined {
    return this.#callers.get(request);
  }

  async #admitted(request: FastifyRequest, caller: Caller): Promise<string> {
    await this.#admit(request, caller);
    return caller.client;
  }

  async #admit(request: FastifyRequest, caller: Caller): Promise<void> {
    this.#callers.set(request, caller);
    await this.#options.admit?.(request, caller.client);
  }

  async #caller(request: FastifyRequest): Promise<Caller> {
    const { verifier, certified, isRemoved } = this.#options;
    const [, token] = /^Bearer ([A-Za-z0-9._-]+)$/.exec(request.headers.authorization ?? '') ?? [];
    if (token !== undefined) return { client: await verifier.client(token), by: 'jwt-svid' };
    const client = request.headers.authorization === undefined ? certified?.(request.raw.socket) : undefined;
    if (client !== undefined) {
      if ((await isRemoved?.(client)) === true) throw new HpcsError('identity', 'unauthenticated', 'this client was removed');
      return { client, by: 'x509-svid' };
    }
    throw new HpcsError(
      'identity',
      'unauthenticated',
      'this call needs a proof of possession (DPoP), a JWT-SVID (Authorization: Bearer) or an X.509-SVID (TLS)',
    );
  }

  /**
   * The proof that a call came with, of whatever key. Whether it was shown before is not looked at: to remember it would let anybody
   * fill the vault.
   *
   * @throws HpcsError `identity` with code `unauthenticated`
   */
  proof(request: FastifyRequest): Promise<Proof> {
    return this.#verify(request);
  }

  async #verify(request: FastifyRequest): Promise<Proof> {
    const header = request.headers['dpop'];
    // Two headers would be joined by a comma, which no proof holds.
    if (typeof header !== 'string') throw new HpcsError('identity', 'unauthenticated', 'this call needs one proof of possession');
    const body = this.#bodies.get(request) ?? '';
    return verifyProof(header, { method: request.method, path: request.url, body }, this.#options.isOwn);
  }
}

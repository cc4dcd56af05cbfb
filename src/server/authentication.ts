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
}

/**
 * Finds out who calls: by a proof of possession in the header `DPoP`, or by a JWT-SVID in `Authorization: Bearer`, which clients
 * with a SPIRE agent have. Nothing else that a caller sends counts.
 */
export class Authentication {
  readonly #options: AuthenticationOptions;
  /** Bodies as they came: a proof covers their bytes. */
  readonly #bodies = new WeakMap<FastifyRequest, Buffer>();

  constructor(app: FastifyInstance, options: AuthenticationOptions) {
    this.#options = options;
    const parse = app.getDefaultJsonParser('error', 'error');
    app.removeContentTypeParser('application/json');
    app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body: Buffer, done) => {
      this.#bodies.set(request, body);
      void parse(request, body.toString('utf8'), done);
    });
  }

  /** The id of the client that calls. @throws HpcsError `identity` with code `unauthenticated` or `forbidden` */
  async client(request: FastifyRequest): Promise<string> {
    if (request.headers['dpop'] !== undefined) return (await this.#options.clients.authenticate(await this.#verify(request))).id;
    const [, token] = /^Bearer ([A-Za-z0-9._-]+)$/.exec(request.headers.authorization ?? '') ?? [];
    if (token !== undefined) return this.#options.verifier.client(token);
    throw new HpcsError(
      'identity',
      'unauthenticated',
      'this call needs a proof of possession (DPoP) or a JWT-SVID (Authorization: Bearer)',
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

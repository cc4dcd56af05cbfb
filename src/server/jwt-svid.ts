import { createPublicKey, type KeyObject } from 'node:crypto';
import { errors, jwtVerify, type JWTHeaderParameters } from 'jose';
import { HpcsError } from '../errors.ts';
import { clientOf, parseSpiffeId } from '../identity/spiffe-id.ts';
import type { JwtAuthority } from './spire.ts';
import { tokenFault } from './token-fault.ts';

/** @see SPIFFE JWT-SVID, 2.1: nothing else is allowed, `none` and keyed hashes least of all */
const algorithms = ['RS256', 'RS384', 'RS512', 'ES256', 'ES384', 'ES512', 'PS256', 'PS384', 'PS512'];

/** Seconds by which the clocks of SPIRE and this server may differ. */
const clockTolerance = 5;
/** Authorities are read anew after this time, so that one that was withdrawn does not stay trusted, in milliseconds. */
const longestTrust = 30_000;
/** A token with an unknown key makes us look for new authorities, but not more often than this, in milliseconds. */
const shortestTrust = 2000;

/** A token that lives shorter than this is of no use: a call takes its time. In seconds. */
const shortestLife = 5;

/**
 * The lifetime of a token for a caller whose session ends at a time: the token does not outlive it.
 *
 * @param until undefined for a caller whose key does not end
 * @param longest seconds
 * @returns seconds
 * @throws HpcsError `identity` with code `unauthenticated` where next to nothing is left
 */
export function lifetimeUntil(until: Date | undefined, longest: number): number {
  if (until === undefined) return longest;
  const left = Math.floor((until.getTime() - Date.now()) / 1000);
  if (left >= shortestLife) return Math.min(longest, left);
  throw new HpcsError('identity', 'unauthenticated', 'the session of this key is about to end: log in again');
}

/** What a {@link JwtSvidVerifier} goes by. */
export interface JwtSvidVerifierOptions {
  trustDomain: string;
  /** A token must be for one of these. */
  audience: string[];
  /** Reads SPIRE's present keys. */
  authorities: () => Promise<JwtAuthority[]>;
  /** Whether a client was removed: its tokens are signed and in time, and count no more. */
  isRemoved?: (client: string) => Promise<boolean>;
  /** A clock that never goes back, in milliseconds. */
  now?: () => number;
}

/** Verifies JWT-SVIDs of one trust domain against the keys that SPIRE signs with. */
export class JwtSvidVerifier {
  readonly #options: JwtSvidVerifierOptions;
  readonly #now: () => number;
  #keys = new Map<string, KeyObject>();
  #read = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  constructor(options: JwtSvidVerifierOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /**
   * The client whose workload holds this token. Its subject says so; nothing else the caller sends does.
   *
   * @returns the client id
   * @throws HpcsError with code `unauthenticated` for a token that is not valid, `forbidden` for one of somebody else
   */
  async client(token: string): Promise<string> {
    const subject = await this.#verify(token);
    const id = parseSpiffeId(subject);
    const client = clientOf(id);
    if (client === undefined || id.trustDomain !== this.#options.trustDomain) {
      throw new HpcsError('identity', 'forbidden', `the token is that of ${subject}, which is no client's workload`);
    }
    if ((await this.#options.isRemoved?.(client)) === true)
      throw new HpcsError('identity', 'unauthenticated', `the token is that of client ${client}, which was removed`);
    return client;
  }

  async #verify(token: string): Promise<string> {
    try {
      const { payload } = await jwtVerify(token, (header) => this.#key(header), {
        algorithms,
        audience: this.#options.audience,
        clockTolerance,
        requiredClaims: ['exp', 'sub', 'aud'],
      });
      return payload.sub ?? '';
    } catch (error) {
      if (error instanceof errors.JOSEError || error instanceof TypeError) throw tokenFault(error, 'this trust domain');
      throw error;
    }
  }

  async #key(header: JWTHeaderParameters): Promise<KeyObject> {
    const { kid } = header;
    const age = (): number => this.#now() - this.#read;
    if (age() > longestTrust) await this.#refresh();
    if (kid !== undefined && !this.#keys.has(kid) && age() > shortestTrust) await this.#refresh();
    const key = kid === undefined ? undefined : this.#keys.get(kid);
    if (key === undefined) throw new errors.JWKSNoMatchingKey();
    return key;
  }

  #refresh(): Promise<void> {
    this.#reading ??= this.#readAuthorities().finally(() => (this.#reading = undefined));
    return this.#reading;
  }

  async #readAuthorities(): Promise<void> {
    const authorities = await this.#options.authorities();
    this.#keys = new Map(
      authorities.map(({ keyId, publicKey }) => [keyId, createPublicKey({ key: publicKey, format: 'der', type: 'spki' })]),
    );
    this.#read = this.#now();
  }
}

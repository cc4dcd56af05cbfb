import { createLocalJWKSet, errors, type CryptoKey, type FlattenedJWSInput, type JWTHeaderParameters } from 'jose';
import { z } from 'zod';
import { HpcsError, messageOf } from '../errors.ts';
import { HttpClient } from '../http.ts';

/** Keys are read anew after this time, so that one that was withdrawn does not stay trusted; in milliseconds. */
const longestTrust = 10 * 60_000;
/** A token with an unknown key makes us look for new keys, and an issuer that failed is asked again: not more often than this. */
const shortestTrust = 2000;
/** A caller waits meanwhile; in milliseconds. */
const patience = 10_000;

const httpsUrl = z.url({ protocol: /^https$/ });
const jwks = z.object({ keys: z.array(z.looseObject({ kty: z.string() })).max(100) });

/** What {@link IssuerKeys} goes by. */
export interface IssuerKeysOptions {
  alias: string;
  /** The issuer, as in `iss`. */
  url: string;
  /** PEM text of the authorities to trust instead of the system's. */
  ca?: string | undefined;
  /** A clock that never goes back, in milliseconds. */
  now?: () => number;
}

/**
 * The keys with which one issuer signs, read over TLS from where its discovery document says, and kept for a while.
 *
 * @see OpenID Connect Discovery 1.0, 4; RFC 7517, 5
 */
export class IssuerKeys {
  readonly #options: IssuerKeysOptions;
  readonly #now: () => number;
  #keys: ReturnType<typeof createLocalJWKSet> | undefined;
  #read = Number.NEGATIVE_INFINITY;
  #tried = Number.NEGATIVE_INFINITY;
  #failure: HpcsError | undefined;
  #reading: Promise<void> | undefined;

  constructor(options: IssuerKeysOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /**
   * The key that a token says it is signed with. Nothing else in its header counts: no key or URL within it is looked at.
   *
   * @throws JWKSNoMatchingKey where the issuer has no such key, HpcsError `issuer-unavailable` where it cannot be asked
   */
  async find(header: JWTHeaderParameters, token: FlattenedJWSInput): Promise<CryptoKey> {
    if (this.#keys === undefined || this.#now() - this.#read > longestTrust) await this.#refresh();
    try {
      return await this.#match(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey) || this.#now() - this.#read < shortestTrust) throw error;
      await this.#refresh();
      return this.#match(header, token);
    }
  }

  async #match(header: JWTHeaderParameters, token: FlattenedJWSInput): Promise<CryptoKey> {
    if (this.#keys === undefined) throw new errors.JWKSNoMatchingKey();
    return this.#keys(header, token);
  }

  #refresh(): Promise<void> {
    if (this.#failure !== undefined && this.#now() - this.#tried < shortestTrust) return Promise.reject(this.#failure);
    this.#reading ??= this.#fetch().finally(() => (this.#reading = undefined));
    return this.#reading;
  }

  async #fetch(): Promise<void> {
    this.#tried = this.#now();
    this.#failure = undefined;
    const { alias, url } = this.#options;
    try {
      const place = `${new URL(url).pathname.replace(/\/$/, '')}/.well-known/openid-configuration`;
      const discovery = z.object({ issuer: z.literal(url), jwks_uri: httpsUrl });
      const { jwks_uri } = await this.#get(new URL(place, url), discovery);
      const { keys } = await this.#get(new URL(jwks_uri), jwks);
      this.#keys = createLocalJWKSet({ keys });
      this.#read = this.#now();
    } catch (error) {
      this.#failure = new HpcsError(
        'identity',
        'issuer-unavailable',
        `the issuer ${alias} cannot be asked for its keys at present: ${messageOf(error)}`,
        { cause: error },
      );
      throw this.#failure;
    }
  }

  async #get<Shape extends z.ZodType>(url: URL, shape: Shape): Promise<z.output<Shape>> {
    await using http = new HttpClient({ name: 'issuer', url: url.origin, ca: this.#options.ca, timeout: patience });
    const { status, body } = await http.json('GET', url.pathname + url.search);
    const parsed = shape.safeParse(body);
    if (status === 200 && parsed.success) return parsed.data;
    const what = status === 200 ? `without a usable ${parsed.error?.issues[0]?.path.join('.') || 'body'}` : `with ${status}`;
    throw new HpcsError('identity', 'bad-answer', `it answered ${what} at ${url.origin}${url.pathname}`);
  }
}

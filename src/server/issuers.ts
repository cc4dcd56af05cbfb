import { createHash } from 'node:crypto';
import { decodeJwt, decodeProtectedHeader, errors, jwtVerify, type JWTPayload } from 'jose';
import { readCa } from '../http.ts';
import { bindingOf, sessionOf, type Issuer } from './issuer-config.ts';
import { IssuerKeys } from './issuer-keys.ts';
import { namedIdentity, principalOf, type Principal } from './issuer-rules.ts';
import { invalidToken, tokenFault } from './token-fault.ts';

/** What clients have to know of an issuer to get a token of it. */
export interface PublicIssuer {
  name: string;
  kind: Issuer['kind'];
  issuer: string;
  /** For people: the id of the public OAuth client too. */
  audience: string;
  scope: string;
  binding: 'nonce' | 'audience' | 'none';
}

/** A token that is valid, and allowed. */
export interface Admission {
  /** Alias of its issuer. */
  issuer: string;
  principal: Principal;
  /** Digest of what was signed: the same token again has the same, however its signature is written. */
  digest: string;
  /** End of the token. */
  expires: Date;
  /** Seconds for which a key may count that came with it. */
  session: number;
}

/** Characters. */
const longestToken = 16_384;
/** Seconds since a token was made: a person shows it at once, a CI job may have got it when it began. */
const oldestToken = { people: 600, generic: 86_400, github: 600, gitlab: 86_400 } as const;

/**
 * The OpenID Connect issuers that the configuration trusts.
 *
 * @see OpenID Connect Core 1.0, 3.1.3.7; RFC 8725 (JSON Web Token Best Current Practices)
 */
export class Issuers {
  readonly #issuers: readonly (Issuer & { keys: IssuerKeys })[];

  private constructor(issuers: readonly (Issuer & { keys: IssuerKeys })[]) {
    this.#issuers = issuers;
  }

  /** Nothing is sent yet: an issuer need not run when the server starts. @throws HpcsError `usage` for a bad `ca-file` */
  static async open(issuers: readonly Issuer[]): Promise<Issuers> {
    return new Issuers(
      await Promise.all(
        issuers.map(async (issuer) => ({ ...issuer, keys: new IssuerKeys({ ...issuer, ca: await readCa(issuer['ca-file']) }) })),
      ),
    );
  }

  /** What clients may know. */
  list(): PublicIssuer[] {
    return this.#issuers.map((issuer) => ({
      name: issuer.alias,
      kind: issuer.kind,
      issuer: issuer.url,
      audience: issuer.audience,
      scope: issuer.scope,
      binding: bindingOf(issuer),
    }));
  }

  /** The identity that a name `oidc:<alias>:<subject>` stands for, or undefined for any other name. */
  identityOf(name: string): string | undefined {
    return namedIdentity(this.#issuers, name);
  }

  /**
   * Verifies an ID token that was shown with a key.
   *
   * @param thumbprint of that key, which has to be proven beside
   * @throws HpcsError `identity` with code `unauthenticated` for a token that is not valid, `forbidden` for one that the rules do not
   * allow, `issuer-unavailable` where its issuer cannot be asked for keys
   */
  async verify(token: string, thumbprint: string): Promise<Admission> {
    const issuer = this.#issuerOf(token);
    const payload = await verified(token, issuer, thumbprint);
    return {
      issuer: issuer.alias,
      principal: principalOf(issuer, payload),
      // Not over the signature: from one of ECDSA anybody can make a second that is valid too.
      digest: createHash('sha256')
        .update(token.slice(0, token.lastIndexOf('.')))
        .digest('hex'),
      expires: new Date((payload.exp ?? 0) * 1000),
      session: sessionOf(issuer),
    };
  }

  #issuerOf(token: string): Issuer & { keys: IssuerKeys } {
    if (token.length > longestToken || !/^[\w-]+\.[\w-]+\.[\w-]*$/.test(token)) throw invalidToken('it is malformed');
    let claimed: unknown;
    try {
      claimed = decodeJwt(token).iss;
    } catch {
      throw invalidToken('it is malformed');
    }
    // Known by its whole text: nothing is ever fetched from an issuer that a token names.
    const issuer = this.#issuers.find(({ url }) => url === claimed);
    if (issuer === undefined) throw invalidToken('its issuer is not trusted here');
    return issuer;
  }
}

async function verified(token: string, issuer: Issuer & { keys: IssuerKeys }, thumbprint: string): Promise<JWTPayload> {
  const binding = bindingOf(issuer);
  const audience = binding === 'audience' ? boundAudience(issuer.audience, thumbprint) : issuer.audience;
  try {
    // Access tokens and the like are signed with the same keys, for other ends.
    const { typ } = decodeProtectedHeader(token);
    if (typ !== undefined && typ.toUpperCase() !== 'JWT') throw invalidToken('it is no ID token');
    const { payload } = await jwtVerify(token, (header, input) => issuer.keys.find(header, input), {
      issuer: issuer.url,
      audience,
      algorithms: issuer.algorithms,
      clockTolerance: issuer.leeway,
      maxTokenAge: oldestToken[issuer.kind],
      requiredClaims: ['exp', 'iat', 'sub', 'aud'],
    });
    if ([payload.aud].flat().length !== 1) throw invalidToken('it is for more than one audience');
    // Some issuers say only in the claims that it is an access token, or for which program it was made (OpenID Connect Core, 3.1.3.7).
    if (payload['typ'] !== undefined && payload['typ'] !== 'ID') throw invalidToken('it is no ID token');
    if (issuer.kind === 'people' && payload['azp'] !== undefined && payload['azp'] !== audience)
      throw invalidToken('it was made for another program');
    // Not every issuer hands the nonce of a device flow on; one of another flow is another program's.
    const { nonce } = payload;
    if ((binding === 'nonce' || (issuer.kind === 'people' && nonce !== undefined)) && nonce !== thumbprint)
      throw invalidToken('it was not asked for by the holder of this key');
    return payload;
  } catch (error) {
    if (error instanceof errors.JOSEError || error instanceof TypeError) throw tokenFault(error, `the issuer ${issuer.alias}`);
    throw error;
  }
}

/** The audience that ties a token to a key: of use nowhere else, and with no other key. */
function boundAudience(audience: string, thumbprint: string): string {
  return `${audience}/key/${thumbprint}`;
}

import { z } from 'zod';
import { HpcsError } from './errors.ts';
import { HttpClient, type HttpAnswer, type HttpOptions } from './http.ts';
import { Secret } from './secret.ts';

const loginAnswer = z.object({
  auth: z.object({ client_token: z.string().min(1), lease_duration: z.number(), entity_id: z.string().optional() }),
});
const readAnswer = z.object({ data: z.object({ data: z.unknown() }) });
const errorAnswer = z.object({ errors: z.array(z.string()) });

/** How to reach a vault. */
export interface VaultOptions extends Omit<HttpOptions, 'name' | 'headers'> {
  /** The namespace in which everything lies (default: the vault's root). @see OpenBao, Namespaces: X-Vault-Namespace */
  namespace?: string | undefined;
}

/** An HTTP client of a vault, in a namespace of it. */
export function vaultClient({ namespace, ...options }: VaultOptions): HttpClient {
  const headers = namespace === undefined ? {} : { 'x-vault-namespace': namespace };
  return new HttpClient({ ...options, headers, name: 'vault' });
}

/** A vault (OpenBao or HashiCorp Vault) whose JWT method is mounted at `auth/jwt` and whose KV version 2 at `kv`. */
export class Vault implements AsyncDisposable {
  readonly #http: HttpClient;

  constructor(options: VaultOptions) {
    this.#http = vaultClient(options);
  }

  /**
   * Logs in with a JWT-SVID.
   *
   * @param role for example `client_<id>`
   * @param jwt a token for the vault's audience
   * @returns a session whose token is revoked when it is disposed of
   * @throws HpcsError `identity`: role unknown, audience or identity not the role's, token expired, vault sealed or unreachable
   */
  async login(role: string, jwt: Secret, signal?: AbortSignal): Promise<VaultSession> {
    const answer = await this.#http.json('POST', '/v1/auth/jwt/login', { body: { role, jwt: jwt.reveal() }, signal });
    if (answer.status !== 200) throw loginRefused(this.#http.url, role, answer);
    const parsed = loginAnswer.safeParse(answer.body);
    if (!parsed.success) throw badAnswer(this.#http.url, 'login');
    const { client_token: token, lease_duration: lifetime, entity_id: entity } = parsed.data.auth;
    return new VaultSession(this.#http, new Secret(token), lifetime, entity || undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#http[Symbol.asyncDispose]();
  }
}

/** A vault token in use. Disposing of it revokes the token. */
export class VaultSession implements AsyncDisposable {
  readonly #http: HttpClient;
  readonly #token: Secret;
  /** Lifetime of the token at login, in seconds; 0 for one that does not end. */
  readonly lifetime: number;
  /** What the vault calls the identity that logged in. */
  readonly entity: string | undefined;
  #revoked = false;

  constructor(http: HttpClient, token: Secret, lifetime: number, entity?: string) {
    this.entity = entity;
    this.#http = http;
    this.#token = token;
    this.lifetime = lifetime;
  }

  /**
   * Writes a secret that must not exist yet.
   *
   * @param path below `kv/data/`, for example `client_<id>/<secret>`
   * @throws HpcsError `identity`, with code `secret-exists` where something was ever written at that path
   */
  async writeNew(path: string, record: Readonly<Record<string, unknown>>, signal?: AbortSignal): Promise<void> {
    const answer = await this.request('POST', kvPath(path), { data: record, options: { cas: 0 } }, signal);
    if (answer.status === 200 || answer.status === 204) return;
    if (answer.status === 400 && /check-and-set/.test(reason(answer))) {
      throw new HpcsError('identity', 'secret-exists', `the vault already holds a secret at ${path}`, {
        suggestion: 'prepare the artefact again: it gets a new secret name',
      });
    }
    throw vaultRefused(this.#http.url, `writing ${path}`, answer);
  }

  /**
   * Reads the newest version of a secret.
   *
   * @returns its fields, unchecked
   * @throws HpcsError `identity`, with code `secret-missing` where there is none (or it was deleted)
   */
  async read(path: string, signal?: AbortSignal): Promise<unknown> {
    const answer = await this.request('GET', kvPath(path), undefined, signal);
    if (answer.status === 404) {
      throw new HpcsError('identity', 'secret-missing', `the vault holds no secret at ${path}`, {
        suggestion: 'the artefact was withdrawn, or its info record is not the right one: prepare it again',
      });
    }
    if (answer.status !== 200) throw vaultRefused(this.#http.url, `reading ${path}`, answer);
    const parsed = readAnswer.safeParse(answer.body);
    if (!parsed.success) throw badAnswer(this.#http.url, `reading ${path}`);
    return parsed.data.data.data;
  }

  /** One request with this session's token, whatever its answer. For the server's administration. */
  async request(
    method: 'GET' | 'POST' | 'PUT' | 'DELETE' | 'LIST',
    path: string,
    body?: unknown,
    signal?: AbortSignal,
  ): Promise<HttpAnswer> {
    if (this.#revoked) throw new HpcsError('bug', 'bug', 'a vault session was used after its end');
    return this.#http.json(method, path, { body, signal, headers: { 'x-vault-token': this.#token } });
  }

  /** Revokes the token. It must not be used afterwards. @throws HpcsError `identity` when the vault refuses */
  async revokeSelf(signal?: AbortSignal): Promise<void> {
    if (this.#revoked) return;
    const answer = await this.request('POST', '/v1/auth/token/revoke-self', {}, signal);
    // 403: it has ended already.
    if (answer.status >= 400 && answer.status !== 403) throw vaultRefused(this.#http.url, 'revoking the token', answer);
    this.#revoked = true;
    this.#token[Symbol.dispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What the session did stands whether or not the vault hears this: its tokens live minutes.
    await this.revokeSelf(AbortSignal.timeout(5000)).catch(() => undefined);
  }
}

/**
 * The error for an answer of the vault that is not the one hoped for.
 *
 * @param doing what was tried, for example `reading client_…/x`
 */
export function vaultRefused(url: string, doing: string, answer: HttpAnswer): HpcsError {
  const why = reason(answer);
  if (answer.status === 503 && /sealed/i.test(why)) {
    return new HpcsError('identity', 'vault-sealed', `the vault at ${url} is sealed`, {
      suggestion: 'its administrators must unseal it; then try again',
    });
  }
  if (answer.status === 403) {
    return new HpcsError('identity', 'vault-forbidden', `the vault at ${url} denied ${doing}`, {
      suggestion: 'the grant does not cover this identity, or was revoked: ask the owner of the artefact',
    });
  }
  const code = answer.status >= 500 || answer.status === 429 || gaveUp.test(why) ? 'vault-unavailable' : 'vault-refused';
  return new HpcsError('identity', code, `the vault at ${url} refused ${doing} (${answer.status}): ${why || 'no reason given'}`, {
    suggestion: code === 'vault-unavailable' ? 'try again' : 'look into the audit log of the vault',
  });
}

/** What a vault says, with status 400, of requests that it drops because it is being sealed or ends. @see Go, package context */
const gaveUp = /context (canceled|deadline exceeded)/;

// The wording is that of OpenBao 2.x and Vault 1.x: the JWT method answers every refusal with 400 or 403 and a text.
function loginRefused(url: string, role: string, answer: HttpAnswer): HpcsError {
  const why = reason(answer);
  const refused = (code: string, what: string, suggestion: string): HpcsError =>
    new HpcsError('identity', code, `the vault at ${url} refused the role ${role}: ${what}`, { suggestion });
  if ((answer.status === 400 || answer.status === 403) && !gaveUp.test(why)) {
    if (/role .*could not be found|role .*not found/i.test(why))
      return refused(
        'vault-role-unknown',
        'it does not exist',
        'the grant was not made or was revoked: prepare the artefact again',
      );
    if (/audience/i.test(why))
      return refused(
        'vault-audience',
        'the token is for another audience',
        'set audience in section [vault] as at the HPCS server',
      );
    if (/subject/i.test(why))
      return refused('vault-subject', 'it belongs to another identity', 'check that the grant is for this user, group and node');
    if (/expired|not.?before|issued/i.test(why))
      return refused(
        'vault-token-time',
        'the token is not valid at this time',
        'check the clocks of this machine, SPIRE and the vault',
      );
    if (/oidc discovery|jwks|signature|verif/i.test(why))
      return refused('vault-signature', 'it cannot verify the token', "check the vault's connection to SPIRE's OIDC provider");
  }
  return vaultRefused(url, `the role ${role}`, answer);
}

function reason(answer: HttpAnswer): string {
  const parsed = errorAnswer.safeParse(answer.body);
  return parsed.success
    ? parsed.data.errors
        .join('; ')
        .replaceAll(/[^\x20-\x7e]+/g, ' ')
        .slice(0, 300)
    : '';
}

function badAnswer(url: string, doing: string): HpcsError {
  return new HpcsError('identity', 'bad-answer', `the vault at ${url} gave an unknown answer to ${doing}`, {
    suggestion: 'check that the url in section [vault] is that of OpenBao or Vault',
  });
}

/** The URL path of a secret, or of what the vault knows about it. @param path as it reads, for example `client_<id>/<secret>` */
export function kvPath(path: string, kind: 'data' | 'metadata' = 'data'): string {
  return `/v1/kv/${kind}/${escapedPath(path)}`;
}

/** A path with each of its parts escaped for a URL. */
export function escapedPath(path: string): string {
  return path.split('/').map(encodeURIComponent).join('/');
}

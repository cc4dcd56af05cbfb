import { once } from 'node:events';
import { createServer, type Server } from 'node:https';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, generateKeyPair, SignJWT, type CryptoKey, type JWK, type JWTPayload } from 'jose';
import { Provider } from 'oidc-provider';
import { Agent, fetch } from 'undici';

/** How issuers are reached: a host, and a certificate for it that signed itself. */
export interface Place {
  host: string;
  tls: { certificate: string; key: string };
}

const deviceGrant = 'urn:ietf:params:oauth:grant-type:device_code';

/** A certified OpenID provider with the device flow, for the OAuth client `hpcs`; everybody can log in there, with any password. */
export class PeopleProvider implements AsyncDisposable {
  readonly url: string;
  readonly #server: Server;
  readonly #agent: Agent;

  private constructor(url: string, server: Server, ca: string) {
    this.url = url;
    this.#server = server;
    this.#agent = new Agent({ connect: { ca } });
  }

  /**
   * @param claims of an account, beside its `sub`
   * @param codeLifetime of the codes that people enter, in seconds
   */
  static async start({ host, tls }: Place, claims: (account: string) => object, codeLifetime = 600): Promise<PeopleProvider> {
    let answer: (request: IncomingMessage, response: ServerResponse) => unknown = () => undefined;
    const server = createServer({ cert: tls.certificate, key: tls.key }, (request, response) => void answer(request, response));
    const url = `https://${host}:${await listen(server)}`;
    const { privateKey } = await generateKeyPair('RS256', { extractable: true });
    const provider = new Provider(url, {
      clients: [
        {
          client_id: 'hpcs',
          token_endpoint_auth_method: 'none',
          grant_types: [deviceGrant],
          redirect_uris: [],
          response_types: [],
        },
        {
          client_id: 'another',
          token_endpoint_auth_method: 'none',
          grant_types: [deviceGrant],
          redirect_uris: [],
          response_types: [],
        },
      ],
      jwks: { keys: [{ ...(await exportJWK(privateKey)), alg: 'RS256', use: 'sig', kid: 'people-1' }] },
      cookies: { keys: ['of this test'] },
      features: {
        deviceFlow: {
          enabled: true,
          userCodeInputSource: (context, form) => void (context.body = form),
          userCodeConfirmSource: (context, form) => void (context.body = form),
          successSource: (context) => void (context.body = 'success'),
        },
        devInteractions: { enabled: true },
      },
      ttl: { AccessToken: 600, DeviceCode: codeLifetime, Grant: 600, IdToken: 600, Interaction: 600, Session: 600 },
      conformIdTokenClaims: false,
      claims: { openid: ['sub', 'groups', 'email_verified'] },
      findAccount: (_context, sub) => ({ accountId: sub, claims: async () => ({ sub, ...claims(sub) }) }),
    });
    answer = provider.callback();
    return new PeopleProvider(url, server, tls.certificate);
  }

  /** What a person with a browser does: opens the page, confirms the code, logs in, agrees; or cancels. */
  async visit(complete: string, account: string, decision: 'agree' | 'deny' = 'agree'): Promise<void> {
    const browser = new Browser(this.#agent);
    let page = await browser.open(complete);
    if (decision === 'deny') {
      await browser.submit(page, { abort: 'yes' });
      return;
    }
    for (let step = 0; step < 8 && page.text.includes('<form'); step += 1) {
      page = await browser.submit(page, { login: account, password: 'any' });
    }
    if (!/success/i.test(page.text)) throw new Error(`the login ended with: ${page.text.slice(0, 2000)}`);
  }

  /** An ID token as another program's device flow gets one. */
  async tokenFor(client: string, account: string, nonce: string): Promise<string> {
    const post = async (path: string, fields: Record<string, string>): Promise<Record<string, string>> =>
      (await (
        await fetch(this.url + path, { method: 'POST', body: new URLSearchParams(fields), dispatcher: this.#agent })
      ).json()) as Record<string, string>;
    const started = await post('/device/auth', { client_id: client, scope: 'openid', nonce });
    await this.visit(started['verification_uri_complete'] ?? '', account);
    const made = await post('/token', { client_id: client, grant_type: deviceGrant, device_code: started['device_code'] ?? '' });
    if (made['id_token'] === undefined) throw new Error(JSON.stringify(made));
    return made['id_token'];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent.destroy();
    await close(this.#server);
  }
}

interface Page {
  url: string;
  text: string;
}

/** As much of a browser as the provider's pages need: cookies, redirects, the first form. */
class Browser {
  readonly #agent: Agent;
  readonly #cookies = new Map<string, string>();

  constructor(agent: Agent) {
    this.#agent = agent;
  }

  async open(url: string, form?: URLSearchParams): Promise<Page> {
    const answer = await fetch(url, {
      method: form === undefined ? 'GET' : 'POST',
      headers: { cookie: [...this.#cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
      ...(form === undefined ? {} : { body: form }),
      redirect: 'manual',
      dispatcher: this.#agent,
    });
    for (const cookie of answer.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
      if (value === '') this.#cookies.delete(name);
      else this.#cookies.set(name, value);
    }
    const location = answer.headers.get('location');
    const text = await answer.text();
    return location === null ? { url, text } : this.open(new URL(location, url).href);
  }

  submit({ url, text }: Page, fields: Record<string, string>): Promise<Page> {
    const [form = ''] = /<form[\s\S]*?<\/form>/.exec(text) ?? [];
    const action = /action="([^"]*)"/.exec(form)?.[1] ?? url;
    const values = new URLSearchParams();
    for (const [input] of form.matchAll(/<(?:input|button)[^>]*>/g)) {
      const name = /name="([^"]*)"/.exec(input)?.[1];
      if (name === undefined || name === 'abort') continue;
      values.set(name, fields[name] ?? /value="([^"]*)"/.exec(input)?.[1] ?? '');
    }
    if (fields['abort'] !== undefined) values.set('abort', fields['abort']);
    return this.open(new URL(action.replaceAll('&amp;', '&'), url).href, values);
  }
}

/** Issuers of CI tokens on one host: each below a path of its own, with keys of its own. */
export class CiIssuers implements AsyncDisposable {
  readonly origin: string;
  /** Paths that were asked for. */
  readonly asked: string[] = [];
  readonly #server: Server;
  readonly #port: number;
  readonly #keys: Map<string, SigningKey>;
  /** Answers the runner's requests for tokens. */
  runner: (audience: string) => Promise<string> = () => Promise.reject(new Error('no runner'));

  private constructor(origin: string, server: Server, port: number, keys: Map<string, SigningKey>) {
    this.origin = origin;
    this.#server = server;
    this.#port = port;
    this.#keys = keys;
    server.on('request', (request: IncomingMessage, response: ServerResponse) => void this.#answer(request, response));
  }

  static async start({ host, tls }: Place, names: readonly string[]): Promise<CiIssuers> {
    const server = createServer({ cert: tls.certificate, key: tls.key });
    const port = await listen(server);
    const keys = new Map(await Promise.all(names.map(async (name) => [name, await signingKey(`${name}-1`)] as const)));
    return new CiIssuers(`https://${host}:${port}`, server, port, keys);
  }

  url(name: string): string {
    return `${this.origin}/${name}`;
  }

  key(name: string): SigningKey {
    const key = this.#keys.get(name);
    if (key === undefined) throw new Error(`no issuer ${name}`);
    return key;
  }

  /** A token as the issuer makes it; with another key, header or claims where a test forges one. */
  async sign(name: string, claims: JWTPayload, change: { key?: CryptoKey; header?: object } = {}): Promise<string> {
    const { kid, privateKey } = this.key(name);
    const now = Math.floor(new Date().getTime() / 1000);
    return new SignJWT({ iss: this.url(name), iat: now, nbf: now, exp: now + 300, jti: crypto.randomUUID(), ...claims })
      .setProtectedHeader({ alg: 'RS256', typ: 'JWT', kid, ...change.header })
      .sign(change.key ?? privateKey);
  }

  /** Signs with another key from now on, and publishes no other. */
  rotate(name: string, key: SigningKey): void {
    this.#keys.set(name, key);
  }

  /** Ends listening, as an issuer that is down. */
  async stop(): Promise<void> {
    await close(this.#server);
  }

  /** Listens again, where it did. */
  async again(): Promise<void> {
    await listen(this.#server, this.#port);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#server.listening) await this.stop();
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', this.origin);
    this.asked.push(url.pathname);
    const [, name = '', rest] = /^\/([^/]+)\/(.*)$/.exec(url.pathname) ?? [];
    const key = this.#keys.get(name);
    const body = await (async (): Promise<unknown> => {
      if (url.pathname === '/runner/token' && request.headers.authorization === 'Bearer of-the-runner')
        return { value: await this.runner(url.searchParams.get('audience') ?? '') };
      if (rest === '.well-known/openid-configuration' && key !== undefined)
        return { issuer: this.url(name), jwks_uri: `${this.url(name)}/keys` };
      if (rest === 'keys' && key !== undefined) return { keys: [key.publicJwk] };
      return undefined;
    })();
    response.writeHead(body === undefined ? 404 : 200, { 'content-type': 'application/json', connection: 'close' });
    response.end(JSON.stringify(body ?? {}));
  }
}

/** A key that signs tokens. */
export interface SigningKey {
  kid: string;
  privateKey: CryptoKey;
  publicJwk: JWK;
}

/** Makes an RSA key, as the CI systems use. */
export async function signingKey(kid: string): Promise<SigningKey> {
  const { privateKey, publicKey } = await generateKeyPair('RS256', { extractable: true });
  return { kid, privateKey, publicJwk: { ...(await exportJWK(publicKey)), alg: 'RS256', use: 'sig', kid } };
}

/** Claims of a run on GitHub. @see GitHub: OpenID Connect reference */
export function githubClaims(changes: JWTPayload = {}): JWTPayload {
  return {
    sub: 'repo:octo-org/octo-repo:ref:refs/heads/main',
    ref: 'refs/heads/main',
    sha: '9f1c2e4b8a7d6c5e4f3a2b1c0d9e8f7a6b5c4d3e',
    repository: 'octo-org/octo-repo',
    repository_owner: 'octo-org',
    repository_id: '1001',
    repository_owner_id: '77',
    repository_visibility: 'private',
    actor: 'octocat',
    actor_id: '12',
    run_id: '999',
    run_number: '10',
    run_attempt: '2',
    runner_environment: 'github-hosted',
    workflow: 'example-workflow',
    head_ref: '',
    base_ref: '',
    event_name: 'push',
    ref_protected: 'true',
    ref_type: 'branch',
    workflow_ref: 'octo-org/octo-repo/.github/workflows/main.yml@refs/heads/main',
    job_workflow_ref: 'octo-org/octo-repo/.github/workflows/main.yml@refs/heads/main',
    ...changes,
  };
}

/** Claims of a job on GitLab. @see GitLab: ID token authentication, token payload */
export function gitlabClaims(changes: JWTPayload = {}): JWTPayload {
  return {
    sub: 'project_path:my-group/my-project:ref_type:branch:ref:main',
    namespace_id: '72',
    namespace_path: 'my-group',
    project_id: '42',
    project_path: 'my-group/my-project',
    user_id: '1',
    user_login: 'sample-user',
    user_email: 'sample-user@example.com',
    pipeline_id: '574',
    pipeline_source: 'push',
    job_id: '302',
    ref: 'main',
    ref_type: 'branch',
    ref_path: 'refs/heads/main',
    ref_protected: 'true',
    runner_id: 1,
    runner_environment: 'gitlab-hosted',
    sha: '714a629c0b401fdce83e847fc9589983fc6f46bc',
    project_visibility: 'private',
    ...changes,
  };
}

async function listen(server: Server, port = 0): Promise<number> {
  server.listen(port, '0.0.0.0');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

async function close(server: Server): Promise<void> {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
}

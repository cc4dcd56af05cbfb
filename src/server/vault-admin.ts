import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import type { HttpAnswer } from '../http.ts';
import { formatSpiffeId, type SpiffeId } from '../identity/spiffe-id.ts';
import type { Secret } from '../secret.ts';
import type { Metrics } from './metrics.ts';
import { escapedPath, kvPath, vaultRefused, type Vault, type VaultSession } from '../vault.ts';

/** A role of the JWT method, as far as we decide about it. */
export interface Role {
  name: string;
  policy: string;
  /** The only identity that may take the role. */
  subject: SpiffeId;
}

/** Lifetime of the tokens that roles give, in seconds: long enough to read or write one key, and to say goodbye. */
const tokenLifetime = 300;
/** Seconds by which the clocks of SPIRE and the vault may differ. The vault's own default is a minute and more. */
export const clockSkew = 10;
/** -1 switches the vault's further leeway for this claim off. */
export const noLeeway = -1;

const roleAnswer = z.object({
  data: z.object({ bound_subject: z.string(), token_policies: z.array(z.string()).nullish() }),
});

const listAnswer = z.object({ data: z.object({ keys: z.array(z.string()) }) });
const entityAnswer = z.object({ data: z.object({ id: z.string().min(1) }) });
const mountAnswer = z.object({ data: z.object({ accessor: z.string().min(1) }) });

/** Lets every token end itself; we leave the default policy out, which would allow much more. */
const revokeSelf = 'path "auth/token/revoke-self" {\n  capabilities = ["update"]\n}\n';

/** What a {@link VaultAdmin} goes by. */
export interface VaultAdminOptions {
  /** The vault's URL, for messages. */
  url: string;
  /** This server's role. */
  role: string;
  /** Audiences that the roles made here accept. */
  audience: string[];
  /** Fetches this server's own JWT-SVID for the vault. */
  jwt: () => Promise<Secret>;
  metrics?: Pick<Metrics, 'logins' | 'vaultTokenExpires'> | undefined;
}

/** A login that failed is tried again after this long, while the token in use still lives, in milliseconds. */
const again = 2000;
/** A token is not used in its last moments: a request takes time, in milliseconds. */
const margin = 5000;

/** The part of the vault's administration that grants need, done with this server's own identity. */
export class VaultAdmin implements AsyncDisposable {
  readonly #vault: Vault;
  readonly #options: VaultAdminOptions;
  #session: VaultSession | undefined;
  #renewAt = 0;
  #endsAt = 0;
  #login: Promise<VaultSession> | undefined;
  /** What the vault calls its JWT method. */
  #accessor: string | undefined;

  /** @param vault owned from now on */
  constructor(vault: Vault, options: VaultAdminOptions) {
    this.#vault = vault;
    this.#options = options;
  }

  /** Lets a client's workload write below its own path. May be repeated. @throws HpcsError `identity` */
  async writeClient(clientId: string, subject: SpiffeId): Promise<void> {
    const name = `client_${clientId}`;
    await this.#writePolicy(name, `path "kv/data/${name}/*" {\n  capabilities = ["create", "update"]\n}\n`);
    await this.#writeRole({ name, policy: name, subject });
  }

  /** Lets an identity read one secret. May be repeated. The role is written last. @throws HpcsError `identity` */
  async writeReader(role: Role, path: string): Promise<void> {
    await this.#writePolicy(role.policy, readPath(path));
    await this.#writeRole(role);
  }

  /** Whether this role exists, exactly. @throws HpcsError `identity`; code `conflict` where one of its name is another's */
  async hasRole(role: Role): Promise<boolean> {
    const answer = await this.request('GET', `/v1/auth/jwt/role/${encodeURIComponent(role.name)}`);
    if (answer.status === 404) return false;
    const parsed = roleAnswer.safeParse(answer.body);
    if (answer.status !== 200 || !parsed.success) throw this.refused(`reading role ${role.name}`, answer);
    const { bound_subject: subject, token_policies: policies } = parsed.data.data;
    if (subject !== formatSpiffeId(role.subject) || policies?.length !== 1 || policies[0] !== role.policy)
      throw new HpcsError('identity', 'conflict', `the vault has another role named ${role.name}`, {
        suggestion: 'an administrator of the vault must delete it, where nobody needs it',
      });
    return true;
  }

  /**
   * Reads secrets as somebody else, with a role that gives exactly them and is gone afterwards.
   *
   * @param reader.paths below `kv/data/`
   * @param reader.lifetime of the token, in seconds
   * @param jwt a token of `reader.subject`
   * @returns the content of each path
   * @throws HpcsError `identity`
   */
  async readAs(
    reader: { name: string; subject: SpiffeId; paths: readonly string[]; lifetime: number },
    jwt: Secret,
  ): Promise<unknown[]> {
    const { name, subject, paths, lifetime } = reader;
    await using undo = new AsyncDisposableStack();
    undo.defer(() => this.removeRole(name));
    await this.#writePolicy(name, [...new Set(paths)].map((path) => readPath(path)).join(''));
    await this.#writeRole({ name, policy: name, subject }, lifetime);
    await using session = await this.#vault.login(name, jwt);
    const { entity } = session;
    // The vault makes an entity of every identity that it sees, and keeps it.
    if (entity !== undefined) undo.defer(() => this.#delete(`/v1/identity/entity/id/${entity}`));
    const contents: unknown[] = [];
    for (const path of paths) contents.push(await session.read(path));
    return contents;
  }

  /** Removes a client's role and policy. @throws HpcsError `identity` */
  async removeClient(clientId: string): Promise<void> {
    await this.removeRole(`client_${clientId}`);
  }

  /** Removes a role and the policy of its name, the policy first: that ends tokens already given. @throws HpcsError `identity` */
  async removeRole(name: string): Promise<void> {
    await this.removeReader({ name, policy: name });
  }

  /**
   * Destroys a secret with all its versions: deleting just the newest could be undone.
   *
   * @param path `client_<id>/<secret>`, or whatever else the vault listed
   * @throws HpcsError `identity`
   */
  async destroy(path: string): Promise<void> {
    await this.#delete(kvPath(path, 'metadata'));
  }

  /** Whether there is a secret, deleted or not, as long as it is not destroyed. @throws HpcsError `identity` */
  async hasSecret(path: string): Promise<boolean> {
    const answer = await this.request('GET', kvPath(path, 'metadata'));
    if (answer.status === 404) return false;
    if (answer.status !== 200) throw this.refused(`looking for ${path}`, answer);
    return true;
  }

  /**
   * All secrets of a client, which may write what it likes below its own path: in directories too, and under names of any form.
   *
   * @param failed told of a directory that cannot be listed, which is passed over
   * @returns paths such as `client_<id>/<secret>`, as they read, not as they are escaped
   */
  async *secretsOf(clientId: string, failed: (path: string, error: unknown) => void): AsyncGenerator<string> {
    const directories = [`client_${clientId}/`];
    for (let directory = directories.pop(); directory !== undefined; directory = directories.pop()) {
      let names: string[];
      try {
        names = await this.#list(directory);
      } catch (error) {
        failed(directory, error);
        continue;
      }
      for (const name of names) {
        if (name.endsWith('/')) directories.push(directory + name);
        else yield directory + name;
      }
    }
  }

  async #list(directory: string): Promise<string[]> {
    const answer = await this.request('LIST', kvPath(directory, 'metadata'));
    if (answer.status === 404) return [];
    const parsed = listAnswer.safeParse(answer.body);
    if (answer.status !== 200 || !parsed.success) throw this.refused(`listing the secrets below ${directory}`, answer);
    return parsed.data.data.keys;
  }

  /**
   * Takes from those who hold tokens of a role what it gave them, and lets nobody take it any more: the policy goes first, since the
   * vault looks it up at each use of a token, and the role only at the login.
   *
   * @throws HpcsError `identity`
   */
  async removeReader({ name, policy }: Pick<Role, 'name' | 'policy'>): Promise<void> {
    await this.#delete(policyPath(policy));
    await this.#delete(`/v1/auth/jwt/role/${encodeURIComponent(name)}`);
  }

  /** Makes the vault forget whom it saw log in as this identity: it keeps an entity of each. @throws HpcsError `identity` */
  async forget(subject: SpiffeId): Promise<void> {
    this.#accessor ??= await this.#readAccessor();
    const body = { alias_name: formatSpiffeId(subject), alias_mount_accessor: this.#accessor };
    const answer = await this.request('POST', '/v1/identity/lookup/entity', body);
    if (answer.status === 204 || answer.status === 404) return;
    const parsed = entityAnswer.safeParse(answer.body);
    if (answer.status !== 200 || !parsed.success) throw this.refused(`looking for the entity of ${body.alias_name}`, answer);
    await this.#delete(`/v1/identity/entity/id/${parsed.data.data.id}`);
  }

  // The one place that tells it without the right to administer login methods.
  async #readAccessor(): Promise<string> {
    const answer = await this.request('GET', '/v1/sys/internal/ui/mounts/auth/jwt');
    const parsed = mountAnswer.safeParse(answer.body);
    if (answer.status !== 200 || !parsed.success) throw this.refused('looking up the JWT method', answer);
    return parsed.data.data.accessor;
  }

  /** Proves that this server is logged in, logging in where it is not. @throws HpcsError `identity` */
  async check(): Promise<void> {
    // Absent or not, the answer shows that the token works.
    const answer = await this.request('GET', '/v1/auth/jwt/role/client_000000000');
    if (answer.status !== 200 && answer.status !== 404) throw this.refused('reading a role', answer);
  }

  async #writePolicy(name: string, rules: string): Promise<void> {
    const answer = await this.request('POST', policyPath(name), { policy: rules + revokeSelf });
    if (answer.status >= 400) throw this.refused(`writing policy ${name}`, answer);
  }

  async #writeRole({ name, policy, subject }: Role, lifetime = tokenLifetime): Promise<void> {
    const answer = await this.request('POST', `/v1/auth/jwt/role/${encodeURIComponent(name)}`, {
      role_type: 'jwt',
      user_claim: 'sub',
      bound_subject: formatSpiffeId(subject),
      bound_audiences: this.#options.audience,
      clock_skew_leeway: clockSkew,
      expiration_leeway: noLeeway,
      not_before_leeway: noLeeway,
      token_policies: [policy],
      token_no_default_policy: true,
      // Not `batch`: those cannot be revoked when the work is done.
      token_type: 'service',
      token_ttl: lifetime,
      token_max_ttl: lifetime,
    });
    if (answer.status >= 400) throw this.refused(`writing role ${name}`, answer);
  }

  async #delete(path: string): Promise<void> {
    const answer = await this.request('DELETE', path);
    if (answer.status >= 400 && answer.status !== 404) throw this.refused(`removing ${path}`, answer);
  }

  /** The error for an answer to {@link VaultAdmin.request} that is not the one hoped for. */
  refused(doing: string, answer: HttpAnswer): HpcsError {
    return refused(this.#options.url, doing, answer);
  }

  /** One request with this server's token, whatever its answer. @throws HpcsError `identity` when it cannot be asked */
  async request(method: 'GET' | 'POST' | 'DELETE' | 'LIST', path: string, body?: unknown): Promise<HttpAnswer> {
    const session = await this.#current();
    const answer = await session.request(method, path, body);
    if (answer.status !== 403) return answer;
    // The token may have ended before its time: revoked, or lost with the vault's storage.
    if (this.#session === session) this.#session = undefined;
    return (await this.#current()).request(method, path, body);
  }

  async #current(): Promise<VaultSession> {
    if (this.#session !== undefined && Date.now() < this.#renewAt) return this.#session;
    this.#login ??= this.#renew().finally(() => (this.#login = undefined));
    return this.#login;
  }

  /** Logs in; where that fails for now, the token that still lives does. */
  async #renew(): Promise<VaultSession> {
    try {
      const session = await this.#logIn();
      this.#options.metrics?.logins.inc({ outcome: 'ok' });
      this.#options.metrics?.vaultTokenExpires.set(Math.min(this.#endsAt, 8.64e15) / 1000);
      return session;
    } catch (error) {
      this.#options.metrics?.logins.inc({ outcome: 'failed' });
      const session = this.#session;
      if (session === undefined || Date.now() > this.#endsAt - margin) throw error;
      this.#renewAt = Date.now() + again;
      return session;
    }
  }

  async #logIn(): Promise<VaultSession> {
    using jwt = await this.#options.jwt();
    const session = await this.#vault.login(this.#options.role, jwt);
    this.#session = session;
    const lifetime = session.lifetime === 0 ? Number.POSITIVE_INFINITY : session.lifetime * 1000;
    this.#endsAt = Date.now() + lifetime;
    this.#renewAt = Date.now() + (lifetime * 2) / 3;
    // An older token is not revoked: calls under way may still use it, and it ends by itself soon.
    return session;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session?.[Symbol.asyncDispose]();
    await this.#vault[Symbol.asyncDispose]();
  }
}

function policyPath(name: string): string {
  return `/v1/sys/policies/acl/${escapedPath(name)}`;
}

function readPath(path: string): string {
  return `path "kv/data/${path}" {\n  capabilities = ["read"]\n}\n`;
}

// For this server a denial is not about a grant but about its own policy.
function refused(url: string, doing: string, answer: HttpAnswer): HpcsError {
  const error = vaultRefused(url, doing, answer);
  if (error.code !== 'vault-forbidden') return error;
  return new HpcsError('identity', 'vault-forbidden', error.message, {
    suggestion: "give this server's role the policy in hpcs-server.policy.hcl",
  });
}

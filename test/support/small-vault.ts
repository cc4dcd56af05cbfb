import { setImmediate } from 'node:timers/promises';
import { HttpClient, type HttpAnswer, type HttpRequest } from '../../src/http.ts';
import { Secret } from '../../src/secret.ts';
import { VaultAdmin } from '../../src/server/vault-admin.ts';
import { Vault, VaultSession } from '../../src/vault.ts';

interface Kept {
  version: number;
  data: unknown;
}

const url = 'https://vault.example.org';

/** What would go to a vault, goes to a function. (Node's own server knows no method LIST.) */
class Wire extends HttpClient {
  readonly #answer: (method: string, path: string, body: unknown) => HttpAnswer;

  constructor(answer: (method: string, path: string, body: unknown) => HttpAnswer) {
    super({ url, name: 'vault' });
    this.#answer = answer;
  }

  override async json(method: string, path: string, { body }: HttpRequest = {}): Promise<HttpAnswer> {
    // As bytes on a wire are.
    await setImmediate();
    const read = path.replace('/v1/', '').split('/').map(decodeURIComponent).join('/');
    return structuredClone(this.#answer(method, read, body === undefined ? undefined : JSON.parse(JSON.stringify(body))));
  }
}

/** A vault that lets everybody log in. */
class OpenVault extends Vault {
  readonly #wire: Wire;

  constructor(wire: Wire) {
    super({ url });
    this.#wire = wire;
  }

  override async login(): Promise<VaultSession> {
    return new VaultSession(this.#wire, new Secret('t'), 3600);
  }
}

/**
 * A vault for unit tests, in memory: KV version 2 with check-and-set, policies and roles. What the real one does with it, the tests in
 * `test/e2e` show.
 *
 * @see OpenBao, KV secrets engine version 2 (API)
 */
export class SmallVault {
  /** By path below the mount, as it reads, not as it is escaped. */
  readonly secrets = new Map<string, Kept>();
  /** Policies and roles by their paths. */
  readonly others = new Map<string, unknown>();
  /** Every request: method and path. */
  readonly asked: string[] = [];
  /** Asked first: a status that it returns is the answer, and nothing is done. */
  refuse: (method: string, path: string) => number | undefined = () => undefined;
  readonly admin = new VaultAdmin(new OpenVault(new Wire((...request) => this.#answer(...request))), {
    url,
    role: 'hpcs-server',
    audience: ['vault'],
    jwt: async () => new Secret('x'),
  });

  /** Writes a secret as somebody else does. */
  put(path: string, data: unknown): void {
    this.secrets.set(path, { version: (this.secrets.get(path)?.version ?? 0) + 1, data });
  }

  /** The secrets below a path. */
  below(path: string): string[] {
    return [...this.secrets.keys()].filter((name) => name.startsWith(path));
  }

  #answer(method: string, path: string, body: unknown): HttpAnswer {
    const [status, content] = this.#do(method, path, body);
    return { status, body: content };
  }

  #do(method: string, path: string, body: unknown): [status: number, content?: unknown] {
    this.asked.push(`${method} ${path}`);
    const refused = this.refuse(method, path);
    if (refused !== undefined) return [refused, { errors: ['refused by the test'] }];
    const [, kind, name = ''] = /^kv\/(data|metadata)\/(.*)$/.exec(path) ?? [];
    if (kind === undefined) return this.#other(method, path, body);
    const kept = this.secrets.get(name);
    if (method === 'LIST') return this.#list(`${name.replace(/\/$/, '')}/`);
    if (method === 'DELETE') {
      this.secrets.delete(name);
      return [204];
    }
    if (method === 'GET')
      return kept === undefined
        ? [404, { errors: [] }]
        : [200, { data: { data: kept.data, metadata: { version: kept.version } } }];
    const { data, options } = body as { data: unknown; options?: { cas?: number } };
    if (options?.cas !== undefined && options.cas !== (kept?.version ?? 0))
      return [400, { errors: ['check-and-set parameter did not match the current version'] }];
    this.put(name, data);
    return [200, { data: {} }];
  }

  #list(prefix: string): [number, unknown?] {
    const names = this.below(prefix).map((name) => /^[^/]*\/?/.exec(name.slice(prefix.length))?.[0] ?? '');
    return names.length === 0 ? [404, { errors: [] }] : [200, { data: { keys: [...new Set(names)].toSorted() } }];
  }

  #other(method: string, path: string, body: unknown): [number, unknown?] {
    if (method === 'GET') return this.others.has(path) ? [200, { data: this.others.get(path) }] : [404, { errors: [] }];
    if (method === 'DELETE') this.others.delete(path);
    else this.others.set(path, body);
    return [204];
  }
}

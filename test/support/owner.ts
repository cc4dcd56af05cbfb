import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadConfig } from '../../src/config.ts';
import { readCa, type HttpAnswer, type HttpClient } from '../../src/http.ts';
import { Secret } from '../../src/secret.ts';
import { vaultClient } from '../../src/vault.ts';
import type { Site } from './site.ts';

/** The token of the administrator of the sandbox's vault. */
export async function administratorToken({ directory }: Pick<Site, 'directory'>): Promise<Secret> {
  const kept = JSON.parse(await readFile(join(directory, 'openbao.json'), 'utf8')) as { administratorToken: string };
  return new Secret(kept.administratorToken);
}

/** The sandbox's vault as its administrator sees it, in the namespace of the site's configuration. */
export class VaultOwner implements AsyncDisposable {
  readonly #http: HttpClient;
  readonly #token: Secret;

  private constructor(http: HttpClient, token: Secret) {
    this.#http = http;
    this.#token = token;
  }

  static async open(site: Site): Promise<VaultOwner> {
    const config = await loadConfig(site.configuration);
    const ca = await readCa(config.vault['ca-file']);
    const { url, namespace } = config.vault;
    return new VaultOwner(vaultClient({ url, ca, namespace }), await administratorToken(site));
  }

  /** One request, whatever its answer. */
  ask(method: 'GET' | 'POST' | 'DELETE' | 'LIST', path: string, body?: unknown): Promise<HttpAnswer> {
    return this.#http.json(method, `/v1/${path}`, { body, headers: { 'x-vault-token': this.#token } });
  }

  /** Names below a path; none where there is nothing. */
  async list(path: string): Promise<string[]> {
    const { body } = await this.ask('LIST', path);
    return (body as { data?: { keys?: string[] } }).data?.keys ?? [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#http[Symbol.asyncDispose]();
  }
}

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadConfig } from '../../src/config.ts';
import { HttpClient, readCa, type HttpAnswer } from '../../src/http.ts';
import { Secret } from '../../src/secret.ts';
import type { Site } from './site.ts';

/** The sandbox's vault as its owner sees it, with the root token that only the sandbox keeps. */
export class VaultOwner implements AsyncDisposable {
  readonly #http: HttpClient;
  readonly #token: Secret;

  private constructor(http: HttpClient, token: Secret) {
    this.#http = http;
    this.#token = token;
  }

  static async open(site: Site): Promise<VaultOwner> {
    const config = await loadConfig(site.configuration);
    const { rootToken } = JSON.parse(await readFile(join(site.directory, 'openbao.json'), 'utf8')) as { rootToken: string };
    const ca = await readCa(config.vault['ca-file']);
    return new VaultOwner(new HttpClient({ name: 'vault', url: config.vault.url, ca }), new Secret(rootToken));
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

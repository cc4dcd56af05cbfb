import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig } from '../../src/config.ts';
import { HttpClient, readCa, type HttpAnswer } from '../../src/http.ts';
import { Secret } from '../../src/secret.ts';
import type { Site } from './site.ts';

interface Kept {
  rootToken: string;
  unsealKey: string;
}

/** The sandbox's vault as its owner sees it, with the root token that only the sandbox keeps. */
export class VaultOwner implements AsyncDisposable {
  readonly #http: HttpClient;
  readonly #token: Secret;
  readonly #unsealKey: Secret;

  private constructor(http: HttpClient, token: Secret, unsealKey: Secret) {
    this.#http = http;
    this.#token = token;
    this.#unsealKey = unsealKey;
  }

  static async open(site: Site): Promise<VaultOwner> {
    const config = await loadConfig(site.configuration);
    const { rootToken, unsealKey } = JSON.parse(await readFile(join(site.directory, 'openbao.json'), 'utf8')) as Kept;
    const ca = await readCa(config.vault['ca-file']);
    const http = new HttpClient({ name: 'vault', url: config.vault.url, ca });
    return new VaultOwner(http, new Secret(rootToken), new Secret(unsealKey));
  }

  /** One request, whatever its answer. */
  ask(method: 'GET' | 'POST' | 'PUT' | 'DELETE' | 'LIST', path: string, body?: unknown): Promise<HttpAnswer> {
    return this.#http.json(method, `/v1/${path}`, { body, headers: { 'x-vault-token': this.#token } });
  }

  /** Unseals the vault and waits until it answers. */
  async unseal(): Promise<void> {
    await this.ask('PUT', 'sys/unseal', { key: this.#unsealKey.reveal() });
    while ((await this.ask('GET', 'sys/health')).status !== 200) await sleep(200);
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

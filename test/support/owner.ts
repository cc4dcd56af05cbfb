import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig } from '../../src/config.ts';
import { messageOf } from '../../src/errors.ts';
import { readCa, type HttpAnswer, type HttpClient } from '../../src/http.ts';
import { Secret } from '../../src/secret.ts';
import { vaultClient } from '../../src/vault.ts';
import type { Site } from './site.ts';

interface Kept {
  administratorToken: string;
  unsealKey: string;
}

async function keptOf({ directory }: Pick<Site, 'directory'>): Promise<Kept> {
  return JSON.parse(await readFile(join(directory, 'openbao.json'), 'utf8')) as Kept;
}

/** The token of the administrator of the sandbox's vault. */
export async function administratorToken(site: Pick<Site, 'directory'>): Promise<Secret> {
  return new Secret((await keptOf(site)).administratorToken);
}

/** The sandbox's vault as its administrator sees it, in the namespace of the site's configuration. */
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
    const { administratorToken: token, unsealKey } = await keptOf(site);
    const ca = await readCa(config.vault['ca-file']);
    const { url, namespace } = config.vault;
    return new VaultOwner(vaultClient({ url, ca, namespace }), new Secret(token), new Secret(unsealKey));
  }

  /** One request, whatever its answer. */
  ask(method: 'GET' | 'POST' | 'PUT' | 'DELETE' | 'LIST', path: string, body?: unknown): Promise<HttpAnswer> {
    return this.#http.json(method, `/v1/${path}`, { body, headers: { 'x-vault-token': this.#token } });
  }

  /** Unseals the vault and waits until it answers. One that was just started needs a moment before it hears. */
  async unseal(): Promise<void> {
    for (const end = Date.now() + 60_000; ; await sleep(200)) {
      const status = await this.#tryUnseal().catch((error: unknown) => messageOf(error));
      if (status === 200) return;
      if (Date.now() > end) throw new Error(`the vault is not unsealed: ${status}`);
    }
  }

  async #tryUnseal(): Promise<number> {
    const { status } = await this.ask('GET', 'sys/health');
    // 503: sealed. @see OpenBao, /sys/health
    if (status === 503) await this.ask('PUT', 'sys/unseal', { key: this.#unsealKey.reveal() });
    return status;
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

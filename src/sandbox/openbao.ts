import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { HpcsError, messageOf } from '../errors.ts';
import { HttpClient, type HttpAnswer } from '../http.ts';
import { Secret } from '../secret.ts';
import type { ServerCertificate } from './keys.ts';
import type { ContainerPlan } from './engine.ts';
import { packageRoot } from './modules.ts';
import { issuer, parts, ports, trustDomain } from './names.ts';

/** Audience of the tokens with which the vault is logged in to. */
export const vaultAudience = 'vault';

/** What only the owner of a sandbox has: kept for tests and for looking around. */
export interface VaultOwner {
  rootToken: Secret;
  unsealKey: Secret;
}

/** OpenBao over TLS, with raft storage (in memory) and an audit log at `/openbao/audit.log`. */
export function openbaoPlan(image: string, { certificate, key }: ServerCertificate): ContainerPlan {
  return {
    name: parts.openbao,
    image,
    entrypoint: ['bao', 'server', '-config', '/openbao/config.hcl'],
    ports: [ports.openbao],
    // In memory: a sandbox is made anew after its machine started again, and each write would wait for the machine's disk.
    host: { Tmpfs: { '/openbao/data': 'mode=0700,size=1g' } },
    files: [
      { name: 'openbao/tls.crt', content: certificate },
      { name: 'openbao/tls.key', content: key.bytes(), mode: 0o600 },
      {
        name: 'openbao/config.hcl',
        content: `ui = false
api_addr = "https://${parts.openbao}:${ports.openbao}"
cluster_addr = "https://${parts.openbao}:8201"
storage "raft" {
  path = "/openbao/data"
  node_id = "sandbox"
}
listener "tcp" {
  address = "0.0.0.0:${ports.openbao}"
  tls_cert_file = "/openbao/tls.crt"
  tls_key_file = "/openbao/tls.key"
}
audit "file" "file" {
  description = "every use of a key"
  options {
    file_path = "/openbao/audit.log"
  }
}
`,
      },
    ],
  };
}

/** Whether the vault is initialised, unsealed and active. */
export async function checkVault(vault: HttpClient): Promise<void> {
  const { status } = await vault.json('GET', '/v1/sys/health');
  if (status !== 200)
    throw new HpcsError('local', 'sandbox-failed', `the vault answers ${status} (501 not initialised, 503 sealed)`);
}

/**
 * Initialises and unseals a fresh OpenBao, and sets it up: KV at `kv`, JWT at `auth/jwt`, and the role of the HPCS server.
 *
 * @param authority PEM of the authority of the OIDC provider, which must be up
 */
export async function setUpVault(vault: HttpClient, authority: string, signal: AbortSignal | undefined): Promise<VaultOwner> {
  const call = async (method: 'POST' | 'PUT', path: string, body: unknown, token?: Secret): Promise<unknown> => {
    const headers = token === undefined ? {} : { 'x-vault-token': token };
    return accepted(await vault.json(method, `/v1/${path}`, { body, headers, signal }), path);
  };
  const made = await call('PUT', 'sys/init', { secret_shares: 1, secret_threshold: 1 });
  const { keys_base64: keys, root_token: root } = z
    .object({ keys_base64: z.array(z.string()).min(1), root_token: z.string() })
    .parse(made);
  const owner = { rootToken: new Secret(root), unsealKey: new Secret(keys[0] ?? '') };
  await call('PUT', 'sys/unseal', { key: owner.unsealKey.reveal() });
  await untilActive(vault, signal);

  const as = (path: string, body: unknown): Promise<unknown> => call('POST', path, body, owner.rootToken);
  await as('sys/mounts/kv', { type: 'kv', options: { version: '2' } });
  await as('sys/auth/jwt', { type: 'jwt' });
  await as('auth/jwt/config', { oidc_discovery_url: issuer, oidc_discovery_ca_pem: authority, bound_issuer: issuer });
  const policy = await readFile(join(packageRoot(), 'docker/server/hpcs-server.policy.hcl'), 'utf8');
  await as('sys/policies/acl/hpcs-server', { policy });
  await as('auth/jwt/role/hpcs-server', {
    role_type: 'jwt',
    user_claim: 'sub',
    bound_audiences: [vaultAudience],
    bound_subject: `spiffe://${trustDomain}/hpcs-server/workload`,
    token_policies: ['hpcs-server'],
    token_ttl: '1h',
  });
  return owner;
}

// Raft elects itself within moments of the unsealing; until then every write is refused.
async function untilActive(vault: HttpClient, signal: AbortSignal | undefined): Promise<void> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await checkVault(vault);
    } catch (error) {
      if (attempt === 100) throw new HpcsError('local', 'sandbox-failed', `the vault did not become active: ${messageOf(error)}`);
      await sleep(100, undefined, { signal });
    }
  }
}

function accepted({ status, body }: HttpAnswer, path: string): unknown {
  if (status < 300) return body;
  const errors = z.object({ errors: z.array(z.string()) }).safeParse(body);
  const words = errors.success ? errors.data.errors.join('; ') : 'no reason given';
  throw new HpcsError('local', 'sandbox-failed', `the vault refused ${path} with ${status}: ${words}`);
}

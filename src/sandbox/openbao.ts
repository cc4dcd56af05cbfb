import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { messageOf } from '../errors.ts';
import { HttpClient, type HttpAnswer } from '../http.ts';
import { Secret } from '../secret.ts';
import { vaultSteps } from '../server/bootstrap-vault.ts';
import { goThrough } from '../server/steps.ts';
import type { ServerCertificate } from './keys.ts';
import { sandboxFailed, type ContainerPlan } from './engine.ts';
import { issuer, parts, ports, serverIds, serverRoles, volumes } from './names.ts';

/** Audience of the tokens with which the vault is logged in to. */
export const vaultAudience = 'vault';

/** What only the owner of a sandbox has: kept for tests and for looking around. */
export interface VaultOwner {
  /** Of an administrator; the root token was revoked. */
  administratorToken: Secret;
  unsealKey: Secret;
}

/** OpenBao over TLS, with raft storage (in memory) and an audit log at `/openbao/audit.log`. */
export function openbaoPlan(image: string, { certificate, key }: ServerCertificate): ContainerPlan {
  return {
    name: parts.openbao,
    image,
    entrypoint: ['bao', 'server', '-config', '/openbao/config.hcl'],
    ports: [ports.openbao],
    volumes: { '/openbao/data': volumes.vault },
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
  if (status !== 200) throw sandboxFailed(`the vault answers ${status} (501 not initialised, 503 sealed)`);
}

/**
 * Initialises and unseals a fresh OpenBao, and sets it up as `hpcs server bootstrap` does, for both HPCS servers. No root
 * token is left.
 *
 * @param authority PEM of the authority of the OIDC provider, which must be up
 */
export async function setUpVault(vault: HttpClient, authority: string, signal: AbortSignal | undefined): Promise<VaultOwner> {
  const call = async (method: 'POST' | 'PUT', path: string, body: unknown, token?: Secret): Promise<unknown> => {
    const headers = token === undefined ? {} : { 'x-vault-token': token };
    return accepted(await vault.json(method, `/v1/${path}`, { body, headers, signal }), path);
  };
  const made = z
    .object({ keys_base64: z.array(z.string()).min(1), root_token: z.string() })
    .parse(await call('PUT', 'sys/init', { secret_shares: 1, secret_threshold: 1 }));
  const unsealKey = new Secret(made.keys_base64[0] ?? '');
  await call('PUT', 'sys/unseal', { key: unsealKey.reveal() });
  await untilActive(vault, signal);

  using root = new Secret(made.root_token);
  const wanted = {
    provider: { discovery: issuer, ca: authority, issuer },
    // Clients of the original know no namespaces, and both servers share their records.
    namespace: undefined,
    audience: vaultAudience,
  };
  // One after the other: both want the same mounts.
  const all = [];
  for (const part of ['hpcsServer', 'legacyServer'] as const) {
    const server = { ...wanted, role: serverRoles[part], subject: serverIds[part] };
    all.push(...(await vaultSteps({ root: vault, own: vault, token: root }, server)));
  }
  const failed = (await goThrough(all, { check: false, signal })).find(({ state }) => state !== 'right' && state !== 'done');
  if (failed !== undefined) throw sandboxFailed(`the vault lacks ${failed.what}: ${failed.why}`);

  const administrator = await makeAdministrator(call, root);
  await call('POST', 'auth/token/revoke-self', {}, root);
  return { administratorToken: administrator, unsealKey };
}

// For tests and for looking around: everything but what root alone may, in the root and in all namespaces.
async function makeAdministrator(
  call: (method: 'POST', path: string, body: unknown, token: Secret) => Promise<unknown>,
  root: Secret,
): Promise<Secret> {
  const policy = 'path "*" {\n  capabilities = ["create", "read", "update", "delete", "list", "sudo"]\n}\n';
  await call('POST', 'sys/policies/acl/sandbox-administrator', { policy }, root);
  const made = await call('POST', 'auth/token/create-orphan', { policies: ['sandbox-administrator'], period: '768h' }, root);
  return new Secret(z.object({ auth: z.object({ client_token: z.string() }) }).parse(made).auth.client_token);
}

// Raft elects itself within moments of the unsealing; until then every write is refused.
async function untilActive(vault: HttpClient, signal: AbortSignal | undefined): Promise<void> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await checkVault(vault);
    } catch (error) {
      if (attempt === 100) throw sandboxFailed(`the vault did not become active: ${messageOf(error)}`);
      await sleep(100, undefined, { signal });
    }
  }
}

function accepted({ status, body }: HttpAnswer, path: string): unknown {
  if (status < 300) return body;
  const errors = z.object({ errors: z.array(z.string()) }).safeParse(body);
  const words = errors.success ? errors.data.errors.join('; ') : 'no reason given';
  throw sandboxFailed(`the vault refused ${path} with ${status}: ${words}`);
}

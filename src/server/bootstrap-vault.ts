import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { HttpAnswer, HttpClient } from '../http.ts';
import { packageRoot } from '../package-root.ts';
import type { Secret } from '../secret.ts';
import { vaultRefused } from '../vault.ts';
import { missing, right, unknown, wrong, type Finding, type Step } from './steps.ts';
import { clockSkew, noLeeway } from './vault-admin.ts';

/** How the vault is to be set up for one HPCS server. */
export interface VaultWanted {
  /** Of its own, or undefined for the vault's root. */
  namespace: string | undefined;
  /** How the vault verifies JWT-SVIDs: one of the two URLs. The authority is PEM; undefined for the system's. */
  provider: { discovery?: string | undefined; jwks?: string | undefined; ca: string | undefined; issuer: string };
  role: string;
  audience: string;
  /** The server's SPIFFE ID. */
  subject: string;
}

/** A vault as its administrator sees it: the same vault, in its root and in the server's namespace. */
export interface VaultAdministration {
  root: HttpClient;
  own: HttpClient;
  token: Secret;
}

const mounts = z.object({ data: z.record(z.string(), z.unknown()) });
const mount = z.object({ type: z.string(), options: z.object({ version: z.string().optional() }).nullish() });
const policyAnswer = z.object({ data: z.object({ policy: z.string() }) });
const fields = z.object({ data: z.record(z.string(), z.unknown()) });

/**
 * What the original's manual has an administrator of the vault do: KV and JWT, how JWTs are verified, the server's policy and role; and
 * a namespace of its own for all of that. It is looked for what stands there already, and whether uses of keys are recorded.
 *
 * @see OpenBao's HTTP API: /sys/namespaces, /sys/audit, /sys/mounts, /sys/auth, /auth/jwt, /sys/policies/acl
 */
export async function vaultSteps(vault: VaultAdministration, wanted: VaultWanted): Promise<Step[]> {
  const ask = async (client: HttpClient, method: 'GET' | 'POST', path: string, body?: unknown): Promise<HttpAnswer> =>
    client.json(method, `/v1/${path}`, { body, headers: { 'x-vault-token': vault.token } });
  const read = async (path: string): Promise<HttpAnswer> => ask(vault.own, 'GET', path);
  const write = async (path: string, body: unknown): Promise<void> => {
    const answer = await ask(vault.own, 'POST', path, body);
    if (answer.status >= 300) throw vaultRefused(vault.own.url, `writing ${path}`, answer);
  };
  const mounted = async (
    where: 'mounts' | 'auth',
    name: string,
    wanted: (found: z.output<typeof mount>) => Finding,
  ): Promise<Finding> => {
    // prettier-ignore
    const answer = await read(`sys/${where}`);
    // Where the namespace is not there yet.
    if (answer.status === 404) return missing('it was not there');
    if (answer.status !== 200) throw vaultRefused(vault.own.url, `reading sys/${where}`, answer);
    const found = mounts.parse(answer.body).data[`${name}/`];
    return found === undefined ? missing('it was not there') : wanted(mount.parse(found));
  };
  /** Whether what stands at a path has all these values. */
  const holds = async (path: string, values: Record<string, unknown>): Promise<Finding> => {
    const answer = await read(path);
    if (answer.status === 404) return missing('it was not there');
    if (answer.status !== 200) throw vaultRefused(vault.own.url, `reading ${path}`, answer);
    const { data } = fields.parse(answer.body);
    const other = Object.keys(values).filter((key) => !same(data[key], values[key]));
    return other.length === 0 ? right : missing(`it had other values: ${other.join(', ')}`);
  };
  const policy = await readFile(join(packageRoot(), 'docker/server/hpcs-server.policy.hcl'), 'utf8');
  const { provider, namespace, role } = wanted;
  const jwt = jwtConfig(provider);
  const values = roleValues(wanted);
  const steps: Step[] = [
    {
      what: 'an audit device, which records every use of a key',
      look: async () => {
        const answer = await ask(vault.root, 'GET', 'sys/audit');
        if (answer.status === 403) return unknown('this token may not look (sys/audit, in the root namespace)');
        if (answer.status !== 200) throw vaultRefused(vault.root.url, 'reading sys/audit', answer);
        if (Object.keys(mounts.parse(answer.body).data).length > 0) return right;
        return wrong('there is none: declare one in the configuration file of the vault, which is the only place for it');
      },
    },
  ];
  if (namespace !== undefined) {
    const at = namespace.split('/');
    const name = at.pop() ?? '';
    // A namespace is made from within the one above it.
    const path = [...at, 'sys/namespaces', name].join('/');
    steps.push({
      what: `the namespace ${namespace}`,
      look: async () => {
        const answer = await ask(vault.root, 'GET', path);
        if (answer.status === 200) return right;
        if (answer.status === 404) return missing('it was not there');
        throw vaultRefused(vault.root.url, `reading ${path}`, answer);
      },
      make: async () => {
        const answer = await ask(vault.root, 'POST', path, {});
        if (answer.status >= 300) throw vaultRefused(vault.root.url, `making the namespace ${namespace}`, answer);
      },
    });
  }
  steps.push(
    {
      what: 'KV version 2 at kv',
      look: () =>
        mounted(
          'mounts',
          'kv',
          ({ type, options }) =>
          type === 'kv' && options?.version === '2' ? right : wrong(`something else is mounted there: ${type} version ${options?.version ?? 1}`), // prettier-ignore
        ),
      make: () => write('sys/mounts/kv', { type: 'kv', options: { version: '2' } }),
    },
    {
      what: 'the JWT method at auth/jwt',
      look: () =>
        mounted('auth', 'jwt', ({ type }) => (type === 'jwt' ? right : wrong(`something else is mounted there: ${type}`))),
      make: () => write('sys/auth/jwt', { type: 'jwt' }),
    },
    {
      what: `its verification of tokens of ${provider.issuer}`,
      look: async () => {
        const found = await holds('auth/jwt/config', jwt);
        const issuer = fields.safeParse((await read('auth/jwt/config')).body).data?.data['bound_issuer'];
        // Whoever else logs in there would be locked out.
        if (found.state === 'missing' && typeof issuer === 'string' && issuer !== '' && issuer !== provider.issuer)
          return wrong(`it verifies those of ${issuer}: give the HPCS server a namespace of its own`);
        return found;
      },
      make: () => write('auth/jwt/config', jwt),
    },
    {
      what: 'the policy hpcs-server',
      look: async () => {
        const answer = await read('sys/policies/acl/hpcs-server');
        if (answer.status === 404) return missing('it was not there');
        if (answer.status !== 200) throw vaultRefused(vault.own.url, 'reading the policy hpcs-server', answer);
        return policyAnswer.parse(answer.body).data.policy === policy ? right : missing('it was another');
      },
      make: () => write('sys/policies/acl/hpcs-server', { policy }),
    },
    {
      what: `the role ${role} of ${wanted.subject}`,
      look: () => holds(`auth/jwt/role/${encodeURIComponent(role)}`, values),
      make: () => write(`auth/jwt/role/${encodeURIComponent(role)}`, values),
    },
  );
  return steps;
}

function jwtConfig({ discovery, jwks, ca = '', issuer }: VaultWanted['provider']): Record<string, unknown> {
  const way =
    jwks === undefined
      ? { oidc_discovery_url: discovery ?? issuer, oidc_discovery_ca_pem: ca }
      : { jwks_url: jwks, jwks_ca_pem: ca };
  return { ...way, bound_issuer: issuer };
}

function roleValues({ audience, subject }: VaultWanted): Record<string, unknown> {
  return {
    role_type: 'jwt',
    user_claim: 'sub',
    bound_audiences: [audience],
    bound_subject: subject,
    clock_skew_leeway: clockSkew,
    expiration_leeway: noLeeway,
    not_before_leeway: noLeeway,
    token_policies: ['hpcs-server'],
    token_no_default_policy: true,
    token_type: 'service',
    token_ttl: 3600,
    token_max_ttl: 3600,
  };
}

function same(found: unknown, wanted: unknown): boolean {
  if (typeof found === 'string' && typeof wanted === 'string') return found.trim() === wanted.trim();
  return JSON.stringify(found) === JSON.stringify(wanted);
}

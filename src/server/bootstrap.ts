import { HpcsError } from '../errors.ts';
import { readCa } from '../http.ts';
import type { Secret } from '../secret.ts';
import { vaultClient, vaultRefused } from '../vault.ts';
import { spireSteps } from './bootstrap-spire.ts';
import { vaultSteps, type VaultWanted } from './bootstrap-vault.ts';
import { ownIdentity, type ServerConfig } from './config.ts';
import { goThrough, type StepReport } from './steps.ts';

/** How a bootstrap is done. */
export interface BootstrapOptions {
  /** Of an administrator of the vault. */
  token: Secret;
  /** Only look. */
  check: boolean;
  report?: (report: StepReport) => void;
  signal?: AbortSignal | undefined;
}

/**
 * Sets up vault and SPIRE for an HPCS server, as its configuration says. What is right already is left alone.
 *
 * @throws HpcsError `usage` where the configuration does not say how the vault verifies tokens
 */
export async function bootstrap(config: ServerConfig, options: BootstrapOptions): Promise<StepReport[]> {
  const { url, namespace, 'ca-file': caFile, 'allow-insecure-http': allowInsecureHttp } = config.vault;
  const reach = { url, ca: await readCa(caFile), allowInsecureHttp, timeout: 10_000 };
  await using root = vaultClient(reach);
  await using own = vaultClient({ ...reach, namespace });
  const inVault = await vaultSteps({ root, own, token: options.token }, await vaultWanted(config));
  return await goThrough([...inVault, ...spireSteps(config)], options);
}

/** Revokes an administrator's token: nothing needs it any more. @throws HpcsError `identity` */
export async function revokeToken(config: ServerConfig, token: Secret): Promise<void> {
  const { url, 'ca-file': caFile, 'allow-insecure-http': allowInsecureHttp } = config.vault;
  await using vault = vaultClient({ url, ca: await readCa(caFile), allowInsecureHttp });
  const answer = await vault.json('POST', '/v1/auth/token/revoke-self', { body: {}, headers: { 'x-vault-token': token } });
  if (answer.status >= 300) throw vaultRefused(url, 'revoking the token', answer);
}

/** What the configuration wants of the vault. @throws HpcsError `usage` */
async function vaultWanted(config: ServerConfig): Promise<VaultWanted> {
  const { 'oidc-url': discovery, 'oidc-ca-file': caFile, 'jwks-url': jwks, issuer = discovery } = config.bootstrap;
  if (issuer === undefined) {
    throw new HpcsError('usage', 'config-invalid', 'section [bootstrap] does not say how the vault verifies JWT-SVIDs', {
      suggestion: "set oidc-url to that of SPIRE's OIDC discovery provider, or jwks-url and issuer",
    });
  }
  const [audience = ''] = config.vault.audience;
  return {
    namespace: config.vault.namespace,
    provider: { discovery, jwks, ca: await readCa(caFile), issuer },
    role: config.vault['server-role'],
    audience,
    subject: ownIdentity(config),
  };
}

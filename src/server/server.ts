import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP, type AddressInfo } from 'node:net';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import { readCa } from '../http.ts';
import { spiffeIds } from '../identity/spiffe-id.ts';
import { Vault } from '../vault.ts';
import { Access } from './access.ts';
import { makeApi } from './api.ts';
import { Clients } from './clients.ts';
import type { ServerConfig } from './config.ts';
import { Grants } from './grants.ts';
import { Issuers } from './issuers.ts';
import { Jobs, type AuditEvent } from './jobs.ts';
import { JwtSvidVerifier } from './jwt-svid.ts';
import { Logins } from './logins.ts';
import { Permissions } from './permissions.ts';
import { ownToken, spireReach } from './reach.ts';
import { parseSelector, Spire } from './spire.ts';
import { Store } from './store.ts';
import { VaultAdmin } from './vault-admin.ts';

/** A server that accepts requests. Disposing of it lets those under way end, then revokes its vault token. */
export interface RunningServer extends AsyncDisposable {
  /** For example `https://0.0.0.0:10080`. */
  readonly url: string;
}

/** What {@link startServer} needs beside the configuration. */
export interface ServerOptions {
  allowLegacyRegistration: boolean;
  log: { write(line: string): void } | false;
}

/**
 * Starts the HPCS server. SPIRE and the vault need not run yet: until they do, calls that need them are answered with 503.
 *
 * @throws HpcsError `usage` or `local` when it cannot listen
 */
export async function startServer(config: ServerConfig, options: ServerOptions): Promise<RunningServer> {
  await using cleanup = new AsyncDisposableStack();
  const trustDomain = config['spire-server']['trust-domain'];
  const spire = cleanup.use(new Spire(spireReach(config)));
  const vault = cleanup.use(await openVault(config));
  const store = new Store(vault);
  const issuers = await Issuers.open(config.issuers);
  const clients = new Clients(store, vault, trustDomain, (name) => issuers.identityOf(name));
  const permissions = new Permissions(store, clients);
  const [vaultAudience = ''] = config.vault.audience;
  const audit: AuditEvent = (level, what, details) => app.log[level](details, what);
  const logins = new Logins(store, clients, issuers, audit);
  const jobs = new Jobs(store, spire, vault, permissions, { trustDomain, audience: vaultAudience, audit });
  const tls = config.tls && { cert: await readPem(config.tls['cert-file']), key: await readPem(config.tls['key-file']) };
  const grants = new Grants(spire, vault, {
    trustDomain,
    selectors: config.client.selectors.map(parseSelector),
    joinTokenTtl: config['spire-server']['join-token-ttl'],
    jwtSvidTtl: config['spire-server']['jwt-svid-ttl'],
  });
  const app = makeApi({
    grants,
    verifier: new JwtSvidVerifier({
      trustDomain,
      audience: config.client.audience,
      authorities: async () => (await spire.bundle()).jwt,
      isRemoved: (client) => clients.isRemoved(client),
    }),
    clients,
    logins,
    permissions,
    access: new Access(clients, permissions, grants, vault),
    jobs,
    trustDomain,
    audiences: [...config.client.audience, ...config.vault.audience],
    mint: (client, audience) =>
      spire.mintJwtSvid(spiffeIds.clientWorkload(trustDomain, client), [audience], config['spire-server']['jwt-svid-ttl']),
    isOwn: ownUrls(config.listen.url, tls?.cert),
    trustBundle: async () => (await spire.bundle()).x509,
    health: { spire: () => spire.bundle(), vault: () => vault.check() },
    allowLegacyRegistration: options.allowLegacyRegistration,
    nodes: config.nodes.allow,
    tls,
    log: options.log,
  });
  cleanup.defer(() => app.close());
  if (options.allowLegacyRegistration)
    app.log.warn('--allow-legacy-registration: anyone who reaches this server gets identities; only for trying it out');
  if (config['spire-server']['socket-path'] !== undefined)
    app.log.warn('socket-path: on that socket this server is an administrator of SPIRE; without the key, SPIRE can confine it');
  if (config['spire-server']['pre-command'])
    app.log.warn('pre-command is ignored: this server speaks to the socket at socket-path');
  const { host, port } = config.listen;
  try {
    await app.listen({ host, port });
  } catch (error) {
    throw new HpcsError('local', 'cannot-listen', `cannot listen on ${host}:${port}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
      suggestion: 'change host and port in section [listen], or end what listens there',
    });
  }
  const address = app.server.address() as AddressInfo;
  cleanup.use(
    tidying([() => clients.tidy(), () => logins.tidy(), () => jobs.tidy()], (error) =>
      app.log.warn({ reason: messageOf(error) }, 'not tidied'),
    ),
  );
  const owned = cleanup.move();
  return {
    url: `${config.tls === undefined ? 'http' : 'https'}://${host}:${address.port}`,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The vault as this server administers it. Nothing is sent yet. @throws HpcsError `usage` */
export async function openVault(config: ServerConfig): Promise<VaultAdmin> {
  const { url, audience, namespace, 'server-role': role, 'ca-file': caFile, 'allow-insecure-http': allowInsecureHttp } = config.vault; // prettier-ignore
  const vault = new Vault({ url, ca: await readCa(caFile), namespace, allowInsecureHttp, timeout: 10_000 });
  return new VaultAdmin(vault, { url, role, audience, jwt: () => ownToken(config) });
}

/**
 * Which URLs of calls are this server's: those of the configured origins, else those of hosts that its certificate is for. Behind
 * a proxy that has the certificate, none without configuration.
 */
export function ownUrls(origins: readonly string[] | undefined, certificate: string | undefined): (url: URL) => boolean {
  if (origins !== undefined) return (url) => origins.includes(url.origin);
  if (certificate === undefined) return () => false;
  const own = new X509Certificate(certificate);
  return ({ protocol, hostname }) => {
    const host = hostname.replace(/^\[(.*)\]$/, '$1');
    return protocol === 'https:' && (isIP(host) === 0 ? own.checkHost(host) : own.checkIP(host)) !== undefined;
  };
}

/** How often what is over is looked for, in milliseconds. */
const tidyingInterval = 60_000;

/** Does chores now and then, one after the other, until disposed of. */
function tidying(chores: (() => Promise<void>)[], failed: (error: unknown) => void): AsyncDisposable {
  let running = Promise.resolve();
  const round = async (): Promise<void> => {
    for (const chore of chores) await chore().catch(failed);
  };
  const timer = setInterval(() => void (running = running.then(round)), tidyingInterval);
  return {
    [Symbol.asyncDispose]: async () => {
      clearInterval(timer);
      await running;
    },
  };
}

async function readPem(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new HpcsError('usage', 'tls-file-unreadable', `cannot read ${file}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
      suggestion: 'correct section [tls]',
    });
  }
}

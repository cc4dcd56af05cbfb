import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Server as TlsServer } from 'node:tls';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import { readCa } from '../http.ts';
import { spiffeIds } from '../identity/spiffe-id.ts';
import { Vault } from '../vault.ts';
import { Access } from './access.ts';
import { makeApi } from './api.ts';
import { Chores } from './chores.ts';
import { Clients } from './clients.ts';
import { ownIdentity, type ServerConfig } from './config.ts';
import { Grants } from './grants.ts';
import { Health } from './health.ts';
import { Issuers } from './issuers.ts';
import { Jobs, type AuditEvent } from './jobs.ts';
import { JwtSvidVerifier, lifetimeUntil } from './jwt-svid.ts';
import { counted, currentRequest, type LogStream } from './log.ts';
import { Logins } from './logins.ts';
import { Metrics } from './metrics.ts';
import { startMonitor } from './monitor.ts';
import { Permissions } from './permissions.ts';
import { ownToken, spireReach } from './reach.ts';
import { parseSelector, Spire } from './spire.ts';
import { Store } from './store.ts';
import { openTls, type ServerTls } from './tls.ts';
import { UnderWay } from './under-way.ts';
import { VaultAdmin } from './vault-admin.ts';

/** A server that accepts requests. Disposing of it lets those under way end, then revokes its vault token. */
export interface RunningServer extends AsyncDisposable {
  /** For example `https://0.0.0.0:10080`. */
  readonly url: string;
}

/** What {@link startServer} needs beside the configuration. */
export interface ServerOptions {
  allowLegacyRegistration: boolean;
  log: LogStream | false;
}

/** A vault whose disk is busy takes seconds for a write, and a caller who is refused comes again and makes it busier; in milliseconds. */
const vaultPatience = 25_000;

/**
 * Starts the HPCS server. SPIRE and the vault need not run yet: until they do, calls that need them are answered with 503.
 *
 * @throws HpcsError `usage` or `local` when it cannot listen
 */
export async function startServer(config: ServerConfig, options: ServerOptions): Promise<RunningServer> {
  await using cleanup = new AsyncDisposableStack();
  const trustDomain = config['spire-server']['trust-domain'];
  const spire = cleanup.use(new Spire(spireReach(config)));
  const metrics = new Metrics();
  const vault = cleanup.use(await openVault(config, metrics));
  const store = new Store(vault);
  const issuers = await Issuers.open(config.issuers);
  const clients = new Clients(store, vault, trustDomain, (name) => issuers.identityOf(name));
  const permissions = new Permissions(store, clients);
  const [vaultAudience = ''] = config.vault.audience;
  const audit: AuditEvent = (level, what, details) => {
    metrics.audit.inc({ level, event: what });
    app.log[level]({ ...currentRequest(), audit: 'event', ...details }, what);
  };
  const logins = new Logins(store, clients, issuers, audit);
  const mostWaiting = config.limits['waiting-jobs-per-client'];
  const jobs = new Jobs(store, spire, vault, permissions, { trustDomain, audience: vaultAudience, audit, mostWaiting });
  const health = new Health({ spire: () => spire.bundle(), vault: () => vault.check() }, metrics);
  const tls =
    config.tls &&
    cleanup.use(
      await openTls(config.tls, {
        trustDomain,
        socket: config['spire-agent']['spire-agent-socket'],
        spiffeId: ownIdentity(config),
        authorities: async () => (await spire.bundle()).x509,
        log: (level, message, details) => app.log[level](details ?? {}, message),
        expires: (time) => metrics.certificateExpires.set(time.getTime() / 1000),
      }),
    );
  const grants = new Grants(spire, vault, {
    trustDomain,
    selectors: config.client.selectors.map(parseSelector),
    joinTokenTtl: config['spire-server']['join-token-ttl'],
    jwtSvidTtl: config['spire-server']['jwt-svid-ttl'],
  });
  const underWay = new UnderWay();
  const app = makeApi({
    grants,
    verifier: new JwtSvidVerifier({
      trustDomain,
      audience: config.client.audience,
      authorities: async () => (await spire.bundle()).jwt,
      isRemoved: (client) => clients.isRemoved(client),
    }),
    clients,
    isRemoved: (client) => clients.isRemoved(client),
    logins,
    permissions,
    access: new Access(clients, permissions, grants, vault),
    jobs,
    trustDomain,
    audiences: [...config.client.audience, ...config.vault.audience],
    mint: (client, audience, until) => {
      const lifetime = lifetimeUntil(until, config['spire-server']['jwt-svid-ttl']);
      return spire.mintJwtSvid(spiffeIds.clientWorkload(trustDomain, client), [audience], lifetime);
    },
    isOwn: ownUrls(config.listen.url, tls),
    trustBundle: async () => (await spire.bundle()).x509,
    health,
    metrics,
    limits: {
      perAddress: config.limits['requests-per-address'],
      perClient: config.limits['requests-per-client'],
      maxConnections: config.limits.connections,
      maxConnectionsPerAddress: config.limits['connections-per-address'],
      trustedProxies: config.listen['trusted-proxies'],
    },
    allowLegacyRegistration: options.allowLegacyRegistration,
    nodes: config.nodes.allow,
    underWay,
    tls,
    log: options.log && counted(options.log, metrics),
  });
  if (config.monitoring !== undefined) cleanup.use(await startMonitor(config.monitoring, health, metrics));
  cleanup.defer(() => underWay.close(app));
  if (options.allowLegacyRegistration)
    app.log.warn('--allow-legacy-registration: anyone who reaches this server gets identities; only for trying it out');
  if (config['spire-server']['socket-path'] !== undefined)
    app.log.warn('socket-path: on that socket this server is an administrator of SPIRE; without the key, SPIRE can confine it');
  if (config['spire-server']['pre-command']) app.log.warn('pre-command is ignored: no command line of SPIRE is run');
  const { host, port } = config.listen;
  try {
    await app.listen({ host, port });
  } catch (error) {
    throw new HpcsError('local', 'cannot-listen', `cannot listen on ${host}:${port}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
      suggestion: 'change host and port in section [listen], or end what listens there',
    });
  }
  // With TLS it is a server of TLS, which Fastify's type does not say.
  tls?.attach(app.server as unknown as TlsServer);
  const address = app.server.address() as AddressInfo;
  cleanup.use(
    new Chores([() => clients.tidy(), () => logins.tidy(), () => jobs.tidy()], (error) =>
      app.log.warn({ reason: messageOf(error) }, 'not tidied'),
    ),
  );
  // First of all: a balancer notices, and sends nobody here any more.
  cleanup.defer(async () => {
    health.end();
    await sleep(config.listen.drain * 1000);
  });
  const owned = cleanup.move();
  return {
    url: `${config.tls === undefined ? 'http' : 'https'}://${host}:${address.port}`,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The vault as this server administers it. Nothing is sent yet. @throws HpcsError `usage` */
export async function openVault(config: ServerConfig, metrics?: Metrics): Promise<VaultAdmin> {
  const {
    url,
    audience,
    namespace,
    'server-role': role,
    'ca-file': caFile,
    'allow-insecure-http': allowInsecureHttp,
  } = config.vault;
  const vault = new Vault({ url, ca: await readCa(caFile), namespace, allowInsecureHttp, timeout: vaultPatience });
  return new VaultAdmin(vault, { url, role, audience, jwt: () => ownToken(config), metrics });
}

/**
 * Which URLs of calls are this server's: those of the configured origins, else those of hosts that its certificate is for. Behind
 * a proxy that has the certificate, none without configuration.
 */
function ownUrls(origins: readonly string[] | undefined, tls: Pick<ServerTls, 'isOwn'> | undefined): (url: URL) => boolean {
  if (origins !== undefined) return (url) => origins.includes(url.origin);
  return (url) => tls?.isOwn(url) ?? false;
}

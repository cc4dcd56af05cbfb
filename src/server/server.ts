import { readFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { HpcsError, systemCode } from '../errors.ts';
import { readCa } from '../http.ts';
import { fetchJwtSvids } from '../identity/workload-api.ts';
import type { Secret } from '../secret.ts';
import { Vault } from '../vault.ts';
import { makeApi } from './api.ts';
import type { ServerConfig } from './config.ts';
import { Grants } from './grants.ts';
import { JwtSvidVerifier } from './jwt-svid.ts';
import { parseSelector, Spire } from './spire.ts';
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

/** A caller waits meanwhile, so that an agent without an identity for us is reported soon, in milliseconds. */
const identityPatience = 5000;

/**
 * Starts the HPCS server. SPIRE and the vault need not run yet: until they do, calls that need them are answered with 503.
 *
 * @throws HpcsError `usage` or `local` when it cannot listen
 */
export async function startServer(config: ServerConfig, options: ServerOptions): Promise<RunningServer> {
  await using cleanup = new AsyncDisposableStack();
  const trustDomain = config['spire-server']['trust-domain'];
  const spire = cleanup.use(new Spire(config['spire-server']['socket-path']));
  const vault = cleanup.use(
    new VaultAdmin(
      new Vault({
        url: config.vault.url,
        ca: await readCa(config.vault['ca-file']),
        allowInsecureHttp: config.vault['allow-insecure-http'],
        timeout: 10_000,
      }),
      {
        url: config.vault.url,
        role: config.vault['server-role'],
        audience: config.vault.audience,
        jwt: () => ownToken(config),
      },
    ),
  );
  const app = makeApi({
    grants: new Grants(spire, vault, {
      trustDomain,
      selectors: config.client.selectors.map(parseSelector),
      joinTokenTtl: config['spire-server']['join-token-ttl'],
      jwtSvidTtl: config['spire-server']['jwt-svid-ttl'],
    }),
    verifier: new JwtSvidVerifier({
      trustDomain,
      audience: config.client.audience,
      authorities: async () => (await spire.bundle()).jwt,
    }),
    trustBundle: async () => (await spire.bundle()).x509,
    health: { spire: () => spire.bundle(), vault: () => vault.check() },
    allowLegacyRegistration: options.allowLegacyRegistration,
    tls: config.tls && { cert: await readPem(config.tls['cert-file']), key: await readPem(config.tls['key-file']) },
    log: options.log,
  });
  cleanup.defer(() => app.close());
  if (options.allowLegacyRegistration)
    app.log.warn('--allow-legacy-registration: anyone who reaches this server gets identities; only for trying it out');
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
  const owned = cleanup.move();
  return {
    url: `${config.tls === undefined ? 'http' : 'https'}://${host}:${address.port}`,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function ownToken(config: ServerConfig): Promise<Secret> {
  const own =
    config['spire-agent']['hpcs-server-spiffeid'] ?? `spiffe://${config['spire-server']['trust-domain']}/hpcs-server/workload`;
  const [audience = ''] = config.vault.audience;
  const [svid] = await fetchJwtSvids({
    socket: config['spire-agent']['spire-agent-socket'],
    audience: [audience],
    spiffeId: own,
    timeout: identityPatience,
  });
  if (svid === undefined) throw new HpcsError('identity', 'no-identity', `the SPIRE agent did not issue ${own}`);
  return svid.token;
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

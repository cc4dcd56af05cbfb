import { HpcsError } from '../errors.ts';
import { fetchJwtSvids } from '../identity/workload-api.ts';
import { fetchX509Svid, type TrustingSvid } from '../identity/x509-svid.ts';
import type { Secret } from '../secret.ts';
import { ownIdentity, type ServerConfig } from './config.ts';
import type { SpireReach } from './spire-connection.ts';

/** A caller waits meanwhile, so that an agent without an identity for us is reported soon, in milliseconds. */
const identityPatience = 5000;

/**
 * How this server calls SPIRE: with its own X.509-SVID, unless the configuration names SPIRE's private socket, as those of the
 * original do.
 */
export function spireReach(config: ServerConfig): SpireReach {
  const { address, port, 'trust-domain': trustDomain, 'socket-path': socket, 'api-address': api } = config['spire-server'];
  if (socket !== undefined) return { socket };
  const [, host = address, number = `${port}`] = /^(.*):(\d+)$/.exec(api ?? '') ?? [];
  return { address: host, port: Number(number), trustDomain, svid: () => ownCertificate(config) };
}

/** The X.509-SVID of this server. @throws HpcsError `identity` */
export async function ownCertificate(config: ServerConfig): Promise<TrustingSvid> {
  const socket = config['spire-agent']['spire-agent-socket'];
  try {
    return await fetchX509Svid({ socket, spiffeId: ownIdentity(config), timeout: identityPatience });
  } catch (cause) {
    throw new HpcsError('identity', 'identity-unavailable', 'this server has no identity of its own at present', { cause });
  }
}

/** A JWT-SVID of this server for the vault. @throws HpcsError `identity` */
export async function ownToken(config: ServerConfig): Promise<Secret> {
  const own = ownIdentity(config);
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

import { HpcsError, messageOf } from '../errors.ts';
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

/** The X.509-SVID of this server. @throws HpcsError `identity`, code `identity-unavailable` */
export async function ownCertificate(config: ServerConfig): Promise<TrustingSvid> {
  const socket = config['spire-agent']['spire-agent-socket'];
  try {
    return await fetchX509Svid({ socket, spiffeId: ownIdentity(config), timeout: identityPatience });
  } catch (error) {
    throw unavailable(error);
  }
}

/** A JWT-SVID of this server for the vault. @throws HpcsError `identity`, code `identity-unavailable` */
export async function ownToken(config: ServerConfig): Promise<Secret> {
  const socket = config['spire-agent']['spire-agent-socket'];
  const own = ownIdentity(config);
  const [audience = ''] = config.vault.audience;
  try {
    const [svid] = await fetchJwtSvids({ socket, audience: [audience], spiffeId: own, timeout: identityPatience });
    if (svid !== undefined) return svid.token;
  } catch (error) {
    throw unavailable(error);
  }
  throw unavailable(new Error(`the SPIRE agent at ${socket} did not issue ${own}`));
}

// Callers of the API are told the message; those who run the server see the rest, in its log and on their terminals.
function unavailable(cause: unknown): HpcsError {
  return new HpcsError('identity', 'identity-unavailable', 'this server has no identity of its own at present', {
    cause,
    suggestion: `${messageOf(cause)}: check spire-agent-socket in section [spire-agent], and run commands of the server on its host, as its user`,
  });
}

import { HpcsError } from '../errors.ts';
import { Clients } from './clients.ts';
import type { ServerConfig } from './config.ts';
import { enrolledName } from './bodies.ts';
import { openVault } from './server.ts';
import { Store } from './store.ts';

/** An enrolment token for somebody. */
export interface Invitation {
  name: string;
  /** A secret: whoever has it becomes that client. */
  token: string;
  /** RFC 3339 time. */
  expires: string;
}

/**
 * Makes an enrolment token with the server's own identity. It lies, hashed, in the vault, so that every server on it takes it.
 *
 * @param options.groups the client's groups from then on; without them they stay as they are
 * @param options.lifetime seconds
 * @throws HpcsError `usage` for a name that none can be enrolled under, `identity`
 */
export async function invite(
  config: ServerConfig,
  options: { name: string; groups?: readonly string[] | undefined; lifetime: number },
): Promise<Invitation> {
  for (const name of [options.name, ...(options.groups ?? [])]) {
    if (enrolledName.safeParse(name).success) continue;
    throw new HpcsError('usage', 'bad-name', `${JSON.stringify(name)} is not a name to enrol somebody under`, {
      suggestion: 'use lower-case letters, digits and . _ @ -, and nothing that looks like a client id (9 hex characters)',
    });
  }
  await using vault = await openVault(config);
  const clients = new Clients(new Store(vault), vault, config['spire-server']['trust-domain']);
  const { token, expires } = await clients.invite(options);
  return { name: options.name, token: token.reveal(), expires: expires.toISOString() };
}

import type { Config } from '../config.ts';
import { connectOpenSsh } from './openssh-transport.ts';
import { connectSsh2 } from './ssh2-transport.ts';
import { sshSettings } from './ssh-settings.ts';
import type { Transport } from './transport.ts';

/** Options of {@link connect}. */
export interface ConnectOptions {
  signal?: AbortSignal | undefined;
  /** Account on the site, in place of the configuration's. */
  username?: string | undefined;
}

/**
 * Connects to the site's login node over the transport that the configuration names.
 *
 * @throws HpcsError `site` when it cannot be reached, shows another host key, or lets nobody in; `usage` for a missing key file
 */
export async function connect(config: Config, options: ConnectOptions = {}): Promise<Transport> {
  const settings = await sshSettings(config, options.username);
  const open = config.supercomputer.transport === 'openssh' ? connectOpenSsh : connectSsh2;
  return open(settings, options.signal);
}

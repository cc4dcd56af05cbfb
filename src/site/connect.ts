import type { Config } from '../config.ts';
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
  // Each with the packages behind it: ssh2's take 40 ms to load, in which other threads of sealing start.
  if (config.supercomputer.transport === 'openssh') {
    const { connectOpenSsh } = await import('./openssh-transport.ts');
    return connectOpenSsh(settings, options.signal);
  }
  const { connectSsh2 } = await import('./ssh2-transport.ts');
  return connectSsh2(settings, options.signal);
}

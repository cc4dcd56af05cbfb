import type { Client, ClientChannel } from 'ssh2';

/** The parts of the ssh2 package's insides that are looked at. */
interface ClientInside {
  _remoteVer?: unknown;
}
interface ChannelInside {
  outgoing?: { window?: unknown };
}

/**
 * In bytes. OpenSSH tells how much more may be sent when it has taken more than three packets of 32 KiB, HPN-SSH, which calls itself OpenSSH
 * too, when it has taken more than eight: with no more than that under way, both ends would wait for ever.
 */
const narrowest = 512 * 1024;

/**
 * Has no more than so many bytes under way on a channel at once. OpenSSH takes 2 MiB before it waits for the command, and keeps what the
 * command has not read in memory that it enlarges with each packet, by copying all of it: a tenth of all the processor time of an upload,
 * where the site is near.
 *
 * Only OpenSSH is held so. Another server may not tell that more may be sent before more was sent than this lets through. Where the package
 * looks otherwise one day, nothing happens.
 *
 * @param channel one on which no more than that is under way yet
 */
export function narrowWindow(client: Client, channel: ClientChannel, bytes: number): void {
  const { _remoteVer: server } = client as unknown as ClientInside;
  const { outgoing } = channel as unknown as ChannelInside;
  if (typeof server !== 'string' || !server.startsWith('OpenSSH') || typeof outgoing?.window !== 'number') return;
  outgoing.window = Math.min(outgoing.window, Math.max(Math.floor(bytes), narrowest));
}

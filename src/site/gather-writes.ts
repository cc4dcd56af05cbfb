import type { Socket } from 'node:net';
import { free } from '../seal/bytes.ts';

/** In bytes: packets of content are larger. */
const smallestFreed = 16 * 1024;

/**
 * Makes a socket hand what is written to it within one turn to the system at once. The ssh2 package writes packet by packet, 32 KiB
 * each, and a system call for each costs more than its encryption; and it leaves what was written to the collector, which then runs more
 * than all else.
 *
 * @param socket one that connects already, or is connected: connecting puts the socket's own `write` back
 */
export function gatherWrites(socket: Socket): void {
  const write = socket.write.bind(socket) as (...args: unknown[]) => boolean;
  let gathering = false;
  socket.write = (...args: unknown[]): boolean => {
    if (!gathering) {
      gathering = true;
      socket.cork();
      process.nextTick(() => {
        gathering = false;
        socket.uncork();
      });
    }
    const [data] = args;
    // Smaller ones may be looked at later, as the beginning of the handshake is.
    return args.length === 1 && Buffer.isBuffer(data) && data.length >= smallestFreed
      ? write(data, () => free(data))
      : write(...args);
  };
}

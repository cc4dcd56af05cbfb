import type { Socket } from 'node:net';

/**
 * Makes a socket hand what is written to it within one turn to the system at once. The ssh2 package writes packet by packet, 32 KiB
 * each, and a system call for each costs more than its encryption.
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
    return write(...args);
  };
}

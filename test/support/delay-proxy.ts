// A TCP proxy that holds every byte back: delay-proxy.ts TARGET-PORT ONE-WAY-MILLISECONDS. Prints its port.
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

const [target = 0, delay = 0] = process.argv.slice(2).map(Number);

/** Passes bytes and ends on after the delay, and holds no more than 64 MiB: much more than the windows of any SSH connection. */
function pass(from: Socket, to: Socket): void {
  const held: { due: number; size: number; act: () => void }[] = [];
  let size = 0;
  // What is due goes on in one call: who is measured shares the processors with this.
  const forward = (): void => {
    to.cork();
    for (const now = performance.now(); held[0] !== undefined && held[0].due <= now;) {
      const first = held.shift();
      size -= first?.size ?? 0;
      if (!to.destroyed) first?.act();
    }
    to.uncork();
    if (from.isPaused()) from.resume();
    if (held[0] !== undefined) setTimeout(forward, Math.max(1, held[0].due - performance.now()));
  };
  const later = (act: () => void, bytes = 0): void => {
    held.push({ due: performance.now() + delay, size: bytes, act });
    size += bytes;
    if (size > 64 * 1024 * 1024) from.pause();
    if (held.length === 1) setTimeout(forward, delay);
  };
  from.on('data', (chunk: Buffer) => later(() => to.write(chunk), chunk.length));
  from.on('end', () => later(() => to.end()));
  from.on('error', () => to.destroy());
  from.on('close', () => later(() => to.destroy()));
}

const server = createServer({ noDelay: true, allowHalfOpen: true }, (client) => {
  const upstream = connect({ port: target, host: '127.0.0.1', noDelay: true, allowHalfOpen: true });
  pass(client, upstream);
  pass(upstream, client);
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`${(server.address() as AddressInfo).port}\n`));

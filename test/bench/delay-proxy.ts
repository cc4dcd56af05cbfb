// A TCP proxy that holds every byte back: delay-proxy.ts TARGET-PORT ONE-WAY-MILLISECONDS. Prints its port.
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

const [target = 0, delay = 0] = process.argv.slice(2).map(Number);

/** Passes bytes on after the delay, and holds no more than 64 MiB: much more than the windows of any SSH connection. */
function pass(from: Socket, to: Socket): void {
  let held = 0;
  from.on('data', (chunk: Buffer) => {
    held += chunk.length;
    if (held > 64 * 1024 * 1024) from.pause();
    setTimeout(() => {
      held -= chunk.length;
      if (from.isPaused()) from.resume();
      if (!to.destroyed) to.write(chunk);
    }, delay);
  });
  from.on('end', () => setTimeout(() => to.end(), delay));
  from.on('error', () => to.destroy());
  from.on('close', () => setTimeout(() => to.destroy(), delay));
}

const server = createServer({ noDelay: true, allowHalfOpen: true }, (client) => {
  const upstream = connect({ port: target, host: '127.0.0.1', noDelay: true, allowHalfOpen: true });
  pass(client, upstream);
  pass(upstream, client);
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`${(server.address() as AddressInfo).port}\n`));

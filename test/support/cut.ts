import { buffer } from 'node:stream/consumers';
import type { Part } from '../../src/sandbox/names.ts';
import { containerOf, type Site } from './site.ts';

// Adds (0x890b) or deletes (0x890c) routes that reject, one for each address. @see route(4), rtentry; linux/route.h
const program = `
use Socket;
my ($call, @addresses) = @ARGV;
socket(my $socket, AF_INET, SOCK_DGRAM, 0) or die "$!\\n";
for (@addresses) {
  my ($to, $mask) = map { pack('S n a4 x8', AF_INET, 0, inet_aton($_)) } ($_, '255.255.255.255');
  ioctl($socket, hex $call, pack('x8 a16 x16 a16 S x70', $to, $mask, 0x205)) or die "$_: $!\\n";
}
`;

/**
 * Takes the site's routes to parts of the sandbox away, in the kernel: nothing on login node or compute node reaches them any more.
 * Disposing gives them back.
 */
export async function cutOff(site: Site, parts: readonly Part[]): Promise<AsyncDisposable> {
  const addresses = await Promise.all(
    parts.map(async (part) => {
      const { NetworkSettings } = await site.docker.getContainer(containerOf(part)).inspect();
      return Object.values(NetworkSettings.Networks).map(({ IPAddress }) => IPAddress);
    }),
  );
  const { Id, Image } = await site.docker.getContainer(containerOf('site')).inspect();
  const route = async (call: '890b' | '890c'): Promise<void> => {
    // A container of its own in that network namespace: the site's may not change its network.
    const container = await site.docker.createContainer({
      Image,
      Entrypoint: ['perl', '-e', program, call, ...addresses.flat()],
      User: '0:0',
      HostConfig: { NetworkMode: `container:${Id}`, CapDrop: ['ALL'], CapAdd: ['NET_ADMIN'] },
    });
    try {
      const stream = await container.attach({ stream: true, stdout: true, stderr: true });
      await container.start();
      const said = await buffer(stream);
      const { StatusCode } = (await container.wait()) as { StatusCode: number };
      if (StatusCode !== 0) throw new Error(`routes were not changed: ${said.toString()}`);
    } finally {
      await container.remove({ force: true });
    }
  };
  await route('890b');
  return { [Symbol.asyncDispose]: () => route('890c') };
}

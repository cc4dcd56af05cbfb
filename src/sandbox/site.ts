import type Docker from 'dockerode';
import { must, type ContainerPlan } from './engine.ts';
import { parts, ports, volumes } from './names.ts';

// Found by elimination: user namespaces, Apptainer's mount of /proc, FUSE, and slurmd's own mounts.
const siteHost: Docker.HostConfig = {
  CapDrop: [],
  CapAdd: ['SYS_ADMIN'],
  SecurityOpt: ['seccomp=unconfined', 'apparmor=unconfined'],
  // What the command line calls systempaths=unconfined.
  MaskedPaths: [],
  ReadonlyPaths: [],
  Devices: [{ PathOnHost: '/dev/fuse', PathInContainer: '/dev/fuse', CgroupPermissions: 'rwm' }],
};

/**
 * The containers of the site: login node first.
 *
 * @param nodes 0: login node, controller and compute node in one container; more: that many compute nodes of their own
 * @param publicKey what opens the accounts, as a line of `authorized_keys`
 */
export function sitePlans(image: string, nodes: number, publicKey: string): ContainerPlan[] {
  const shared = {
    image,
    entrypoint: ['/usr/local/sbin/site'],
    host: siteHost,
    volumes: { '/site': volumes.site, '/scratch': volumes.scratch },
  };
  const login: ContainerPlan = {
    ...shared,
    name: parts.site,
    hostname: nodes === 0 ? nodeName(1) : 'login',
    command: [nodes === 0 ? 'all' : 'login'],
    environment: { SITE_PUBLIC_KEY: publicKey, SITE_NODES: nodes < 2 ? nodeName(1) : `nid[000001-${nodeName(nodes).slice(3)}]` },
    ports: [ports.site],
  };
  const compute = Array.from({ length: nodes }, (_, index): ContainerPlan => {
    const name = nodeName(index + 1);
    return { ...shared, name: nodeContainer(name), hostname: name, command: ['node', name] };
  });
  return [login, ...compute];
}

/** `nid000001` for 1. */
export function nodeName(index: number): string {
  return `nid${String(index).padStart(6, '0')}`;
}

/** The container of a compute node of its own. */
export function nodeContainer(name: string): string {
  return `hpcs-sandbox-${name}`;
}

/** Whether a container of the site is ready: its daemons up and known to the controller. */
export async function checkSite(container: Docker.Container): Promise<void> {
  await must(container, ['sh', '-c', 'test -f /run/site-ready && scontrol ping | grep -q "is UP"'], { limit: 5000 });
}

/** The host keys of the login node, as lines of `known_hosts` for these names. */
export async function hostKeys(container: Docker.Container, names: readonly string[]): Promise<string> {
  const keys = await must(container, ['sh', '-c', 'cat /etc/ssh/ssh_host_*_key.pub']);
  return keys.trim().split('\n').map((line) => `${names.join(',')} ${line.split(' ').slice(0, 2).join(' ')}\n`).join(''); // prettier-ignore
}

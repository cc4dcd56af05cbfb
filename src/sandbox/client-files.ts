import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type Docker from 'dockerode';
import { stringify } from 'ini';
import { createContainer } from './container.ts';
import { dockerError } from '../image/docker.ts';
import { unpack } from '../pack/unpack.ts';
import { writeDurably } from '../state.ts';
import { buildToolKit, toolKitIsCurrent } from '../tool-kit-build.ts';
import { modulesOf } from './modules.ts';
import { parts, ports, site, trustDomain } from './names.ts';

/** Ports on 127.0.0.1 under which the parts are reached from this machine; none for a part that was not asked for. */
export type PublishedPorts = Record<Exclude<keyof typeof ports, 'legacyServer'>, number> & { legacyServer?: number };

/** Names of the files in a sandbox's directory. */
export const fileNames = {
  configuration: 'hpcs-client.conf',
  composeConfiguration: 'hpcs-client.compose.conf',
  legacyConfiguration: 'hpcs-client.legacy.conf',
  authority: 'ca.pem',
  bundle: 'trust-bundle.pem',
  identity: 'id_ed25519',
  clientKey: 'client-key.json',
  knownHosts: 'known_hosts',
  vaultOwner: 'openbao.json',
  programs: 'programs',
  toolKit: 'tool-kit.tar.gz',
} as const;

/** Where clients in containers find the sandbox's directory: `hpcs-client.compose.conf` names files there. */
const composeDirectory = '/tmp/sandbox';

/**
 * Writes the configurations: for clients on this machine, for clients in containers on the sandbox's network, and, where there is
 * a server for them, for clients and jobs that go the original's way, with agents.
 */
export async function writeConfigurations(directory: string, published: PublishedPorts): Promise<void> {
  const local = {
    ...configuration(directory, (part) => ({ address: '127.0.0.1', port: published[part] ?? 0 })),
    'spire-agent': { bin: join(directory, fileNames.programs, 'spire-agent') },
    client: { 'tool-kit': join(directory, fileNames.toolKit) },
  };
  const compose = configuration(composeDirectory, (part) => ({ address: parts[part], port: ports[part] }));
  await writeDurably(join(directory, fileNames.configuration), header('on this machine') + stringify(local));
  if (published.legacyServer !== undefined) await writeLegacy(directory, local, published.legacyServer);
  await writeDurably(
    join(directory, fileNames.composeConfiguration),
    header(`in containers on the network hpcs-sandbox, with this directory at ${composeDirectory}`) + stringify(compose),
  );
}

async function writeLegacy(directory: string, local: Sections, port: number): Promise<void> {
  const legacy = {
    ...local,
    'hpcs-server': {
      ...local['hpcs-server'],
      url: `https://127.0.0.1:${port}`,
      'url-from-node': `https://${parts.legacyServer}:${ports.legacyServer}`,
    },
    identity: { client: 'register', mode: 'agent' },
  };
  const file = join(directory, fileNames.legacyConfiguration);
  await writeDurably(file, header('on this machine that register as those of the original do') + stringify(legacy));
}

type Sections = Record<string, Record<string, string | number>>;

function configuration(directory: string, reach: (part: keyof typeof ports) => { address: string; port: number }): Sections {
  const url = (part: keyof typeof ports): string => `https://${reach(part).address}:${reach(part).port}`;
  const authority = join(directory, fileNames.authority);
  return {
    'spire-server': {
      ...reach('spireServer'),
      'trust-domain': trustDomain,
      'trust-bundle-file': join(directory, fileNames.bundle),
      'address-from-node': parts.spireServer,
      'port-from-node': ports.spireServer,
    },
    'hpcs-server': {
      url: url('hpcsServer'),
      'ca-file': authority,
      'url-from-node': `https://${parts.hpcsServer}:${ports.hpcsServer}`,
    },
    identity: { 'key-file': join(directory, fileNames.clientKey) },
    vault: {
      url: url('openbao'),
      'ca-file': authority,
      'url-from-node': `https://${parts.openbao}:${ports.openbao}`,
    },
    supercomputer: {
      ...reach('site'),
      username: site.user,
      'identity-file': join(directory, fileNames.identity),
      'known-hosts': join(directory, fileNames.knownHosts),
      'tool-kit-directory': `${site.scratch}/${site.user}/.hpcs`,
    },
  };
}

function header(where: string): string {
  return `; Written by hpcs sandbox up, for clients ${where}.\n\n`;
}

/**
 * Takes the static programs out of the image that holds them, to `programs` in the sandbox's directory.
 *
 * @param image from `ensurePrograms`
 */
export async function extractPrograms(docker: Docker, image: string, directory: string): Promise<void> {
  // A tool kit made of earlier ones may look newer than these.
  for (const name of [fileNames.programs, fileNames.toolKit]) await rm(join(directory, name), { recursive: true, force: true });
  await using holder = await createContainer(docker, { image, command: [] });
  try {
    const archive = await holder.container.getArchive({ path: '/programs' });
    await unpack(archive as AsyncIterable<Buffer>, directory);
  } catch (error) {
    throw dockerError(`cannot take the programs out of the image ${image}`, error);
  }
}

/** Makes the tool kit again where something in it is newer. @returns whether it did */
export async function refreshToolKit(directory: string): Promise<boolean> {
  const programs = join(directory, fileNames.programs);
  const target = join(directory, fileNames.toolKit);
  const sources = [...(await modulesOf('src/node/main.ts')), ...['gocryptfs', 'spire-agent'].map((name) => join(programs, name))];
  if (await toolKitIsCurrent(target, sources)) return false;
  await buildToolKit(programs, target);
  return true;
}

/** Whether a file or directory is there. */
export async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined;
}

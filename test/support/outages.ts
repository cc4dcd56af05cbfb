import { parts, type Part } from '../../src/sandbox/names.ts';
import type { VaultOwner } from './owner.ts';
import { containerOf, sandboxName, type Site } from './site.ts';

/** Something that the HPCS server needs, and that can be taken away from it and given back. */
export interface Outage {
  what: string;
  /** Which part `/readyz` says is down meanwhile. */
  part: 'vault' | 'spire';
  begin: () => Promise<unknown>;
  /** As its administrators would: afterwards nobody helps the HPCS server. */
  end: () => Promise<unknown>;
}

/** What is taken away, by names. */
export type Outages = Record<
  'vaultSealed' | 'vaultPaused' | 'vaultKilled' | 'vaultCut' | 'spirePaused' | 'spireKilled' | 'spireCut',
  Outage
>;

/**
 * The ways in which vault and SPIRE server of the sandbox can go away. While this is open the vault's storage, which lies in memory,
 * outlives the vault.
 */
export async function openOutages(site: Site, owner: VaultOwner): Promise<{ outages: Outages } & AsyncDisposable> {
  const container = (part: Part) => site.docker.getContainer(containerOf(part));
  const network = site.docker.getNetwork(sandboxName);
  const cut = (part: Part) => network.disconnect({ Container: containerOf(part), Force: true });
  const join = (part: Part) => network.connect({ Container: containerOf(part), EndpointConfig: { Aliases: [parts[part]] } });
  const startVault = async (): Promise<void> => {
    await container('openbao').start();
    await owner.unseal();
  };
  const pausing = (part: Part) => ({ begin: () => container(part).pause(), end: () => container(part).unpause() });
  const cutting = (part: Part) => ({ begin: () => cut(part), end: () => join(part) });
  const outages: Outages = {
    vaultSealed: { what: 'vault sealed', part: 'vault', begin: () => owner.ask('PUT', 'sys/seal'), end: () => owner.unseal() },
    vaultPaused: { what: 'vault paused', part: 'vault', ...pausing('openbao') },
    vaultKilled: { what: 'vault killed', part: 'vault', begin: () => container('openbao').kill(), end: startVault },
    vaultCut: { what: 'vault cut off', part: 'vault', ...cutting('openbao') },
    spirePaused: { what: 'SPIRE paused', part: 'spire', ...pausing('spireServer') },
    spireKilled: {
      what: 'SPIRE killed',
      part: 'spire',
      begin: () => container('spireServer').kill(),
      end: () => container('spireServer').start(),
    },
    spireCut: { what: 'SPIRE cut off', part: 'spire', ...cutting('spireServer') },
  };
  const holder = await holdStorage(site);
  return { outages, [Symbol.asyncDispose]: () => holder[Symbol.asyncDispose]() };
}

/** Mounts the volume of the vault's storage once more. */
async function holdStorage(site: Site): Promise<AsyncDisposable> {
  const { Image, Mounts, Config } = await site.docker.getContainer(containerOf('openbao')).inspect();
  const { Name: storage } = Mounts.find(({ Destination }) => Destination === '/openbao/data') ?? {};
  if (storage === undefined) throw new Error("the vault's storage is no volume");
  const holder = await site.docker.createContainer({
    Image,
    Entrypoint: ['sleep', 'infinity'],
    // `sandbox down` removes it with the others.
    Labels: Config.Labels,
    HostConfig: {
      NetworkMode: 'none',
      Init: true,
      CapDrop: ['ALL'],
      Mounts: [{ Type: 'volume', Source: storage, Target: '/storage' }],
    },
  });
  await holder.start();
  return { [Symbol.asyncDispose]: () => holder.remove({ force: true }) };
}

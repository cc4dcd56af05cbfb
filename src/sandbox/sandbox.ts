import { randomBytes } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type Docker from 'dockerode';
import { z } from 'zod';
import { HpcsError, messageOf } from '../errors.ts';
import { HttpClient, readCa } from '../http.ts';
import { dockerError, engineStatus } from '../image/docker.ts';
import { writing } from '../keep.ts';
import { makeDirectories } from '../make-directories.ts';
import { parseServerConfig } from '../server/config.ts';
import { spirePolicy } from '../server/spire-policy.ts';
import { writeDurably } from '../state.ts';
import { makeKeys } from './keys.ts';
import { exists, extractPrograms, fileNames, refreshToolKit, writeConfigurations, type PublishedPorts } from './client-files.ts';
import { lastLines, lastLog, publishedPort, removeContainer, sandboxFailed, startPart, type ContainerPlan } from './engine.ts';
import { checkHpcsServer, enrolClient, hpcsServerPlan, serverConfiguration } from './hpcs-server.ts';
import { ensureImages, type SandboxImages } from './images.ts';
import { defaultName, engineName, parts, ports, runLabel, sandboxLabel, site, volumes, type Part } from './names.ts';
import { checkVault, openbaoPlan, setUpVault } from './openbao.ts';
import { checkSite, hostKeys, nodeContainer, nodeName, sitePlans } from './site.ts';
import { checkSpire, oidcPlan, registerServer, spireAgentPlan, spireServerPlan } from './spire.ts';

/** Longest wait for one part to become healthy, in milliseconds. */
const patience = 60_000;

/**
 * The vault's storage: a sandbox is made anew after its machine started again, and each write would wait for the machine's disk. It is
 * gone when the vault ends, unless another container has it mounted.
 */
const inMemory = { DriverOpts: { type: 'tmpfs', device: 'tmpfs', o: 'size=1g,mode=0700' } };

/** What all calls on a sandbox need. */
export interface SandboxOptions {
  docker: Docker;
  /** Absolute path of the sandbox's directory: configuration, keys, tool kit. Private to its owner. */
  directory: string;
  /** Name of its network and beginning of its containers' names (default `hpcs-sandbox`): several can be up at once. */
  name?: string;
  signal?: AbortSignal | undefined;
}

/** What {@link sandboxUp} needs beside. */
export interface UpOptions extends SandboxOptions {
  /** Compute nodes in containers of their own; 0: login and compute node in one container (default: as it is, else 0). */
  nodes?: number | undefined;
  /** A second HPCS server that anyone can register at, for clients of the original (default: as it is, else none). */
  legacy?: boolean | undefined;
  progress: (message: string) => void;
}

/** One container of the sandbox. */
export interface PartStatus {
  /** Name of the container. */
  name: string;
  state: 'healthy' | 'unhealthy' | 'stopped' | 'missing';
  /** Why it is not healthy. */
  detail?: string;
}

/** A sandbox as it is now. */
export interface SandboxStatus {
  directory: string;
  /** The configuration for `--config` or `HPCS_CONFIG`. */
  configuration: string;
  healthy: boolean;
  parts: PartStatus[];
}

const stateSchema = z.object({
  id: z.string(),
  nodes: z.number(),
  legacy: z.boolean(),
  images: z.record(z.string(), z.string()),
  ports: z.record(z.string(), z.number()),
});
type State = z.output<typeof stateSchema>;

/**
 * Brings a sandbox up and waits until every part is healthy. One that is up stays as it is; one that is not whole (a part ended,
 * another version) is made anew from nothing: keys, vault and what lay on the site are gone then.
 *
 * @throws HpcsError `local` naming the part that failed, with its last log lines; the sandbox is removed then
 */
export async function sandboxUp(options: UpOptions): Promise<SandboxStatus> {
  const { docker, directory, signal, progress } = options;
  await writing(directory, makeDirectories(directory, 0o700));
  const images = await ensureImages({ docker, signal, progress });
  const state = await readState(directory);
  const { nodes, legacy } = wanted(options, state);
  if (
    state?.nodes === nodes &&
    state.legacy === legacy &&
    same(state.images, { ...images }) &&
    (await sandboxStatus(options)).healthy
  ) {
    await refreshFiles(options, state);
    return sandboxStatus(options);
  }
  await sandboxDown({ ...options, keepDirectory: true });
  try {
    await create({ ...options, legacy }, images, nodes);
  } catch (error) {
    // Not with the caller's signal, which may be why we are here.
    await sandboxDown({ ...options, signal: undefined, keepDirectory: true });
    throw error;
  }
  return sandboxStatus(options);
}

/** What a sandbox is to be: what nobody asks for is as it was. */
export function wanted(
  asked: Pick<UpOptions, 'nodes' | 'legacy'>,
  state: Pick<State, 'nodes' | 'legacy'> | undefined,
): Pick<State, 'nodes' | 'legacy'> {
  return { nodes: asked.nodes ?? state?.nodes ?? 0, legacy: asked.legacy ?? state?.legacy ?? false };
}

/** Removes containers, network and volumes, and the sandbox's files; images stay. */
export async function sandboxDown(options: SandboxOptions & { keepDirectory?: boolean }): Promise<void> {
  const { docker, directory, name = defaultName } = options;
  const filters = { label: [`${sandboxLabel}=${name}`] };
  try {
    const containers = await docker.listContainers({ all: true, filters });
    await Promise.all(containers.map(({ Id }) => removeContainer(docker, Id)));
    for (const { Id } of await docker.listNetworks({ filters })) await docker.getNetwork(Id).remove();
    for (const { Name } of (await docker.listVolumes({ filters })).Volumes) await docker.getVolume(Name).remove();
  } catch (error) {
    throw dockerError('cannot remove the sandbox', error);
  }
  await rm(stateFile(directory), { force: true });
  if (options.keepDirectory) return;
  for (const name of Object.values(fileNames)) await rm(join(directory, name), { recursive: true, force: true });
  await rm(join(directory, `${fileNames.identity}.pub`), { force: true });
}

/** Looks at every part. */
export async function sandboxStatus(options: SandboxOptions): Promise<SandboxStatus> {
  const { docker, directory, signal } = options;
  const state = await readState(directory);
  const checks = await partChecks(options, state);
  await using _clients = checks.clients;
  const found = await Promise.all(checks.all.map(({ name, check }) => partStatus(docker, name, state, check)));
  signal?.throwIfAborted();
  const configuration = join(directory, fileNames.configuration);
  const healthy = state !== undefined && found.every((part) => part.state === 'healthy') && (await exists(configuration));
  return { directory, configuration, healthy, parts: found };
}

async function partStatus(
  docker: Docker,
  name: string,
  state: State | undefined,
  check: () => Promise<void>,
): Promise<PartStatus> {
  try {
    const { State, Config } = await docker.getContainer(name).inspect();
    if (!State.Running) return { name, state: 'stopped', detail: `ended with ${State.ExitCode}` };
    if (Config.Labels[runLabel] !== state?.id)
      return { name, state: 'unhealthy', detail: 'belongs to another sandbox directory' };
    await check();
    return { name, state: 'healthy' };
  } catch (error) {
    if (engineStatus(error) === 404) return { name, state: 'missing' };
    return { name, state: 'unhealthy', detail: messageOf(error) };
  }
}

interface PartCheck {
  name: string;
  check: () => Promise<void>;
}

async function partChecks(
  { docker, directory, name: sandbox = defaultName }: SandboxOptions,
  state: State | undefined,
): Promise<{ all: PartCheck[]; clients: AsyncDisposableStack }> {
  const clients = new AsyncDisposableStack();
  const container = (part: Part): Docker.Container => docker.getContainer(engineName(sandbox, parts[part]));
  const ca = state === undefined ? undefined : await readCa(join(directory, fileNames.authority));
  const http = (part: Service): HttpClient => clients.use(serviceClient(part, state?.ports[part] ?? 0, ca, 5000));
  const [oidc, openbao, hpcsServer, legacyServer] = [http('oidc'), http('openbao'), http('hpcsServer'), http('legacyServer')];
  const checks: Record<Part, () => Promise<void>> = {
    spireServer: () => checkSpire(container('spireServer'), 'server'),
    spireAgent: () => checkSpire(container('spireAgent'), 'agent'),
    oidc: () => checkOidc(oidc),
    openbao: () => checkVault(openbao),
    hpcsServer: () => checkHpcsServer(hpcsServer),
    legacyServer: () => checkHpcsServer(legacyServer),
    site: () => checkSite(container('site')),
  };
  const started = Object.entries(parts).filter(([part]) => part !== 'legacyServer' || state?.legacy === true);
  const all = started.map(([part, host]) => ({ name: engineName(sandbox, host), check: checks[part as Part] }));
  for (let index = 1; index <= (state?.nodes ?? 0); index += 1) {
    const name = engineName(sandbox, nodeContainer(nodeName(index)));
    all.push({ name, check: () => checkSite(docker.getContainer(name)) });
  }
  return { all, clients };
}

type Service = 'oidc' | 'openbao' | 'hpcsServer' | 'legacyServer';

function serviceClient(part: Service, port: number, ca: string | undefined, timeout: number): HttpClient {
  return new HttpClient({ name: parts[part], url: `https://127.0.0.1:${port}`, ca, timeout });
}

async function checkOidc(oidc: HttpClient): Promise<void> {
  const { status, body } = await oidc.json('GET', '/keys');
  const keys = z.object({ keys: z.array(z.unknown()).min(1) }).safeParse(body);
  if (status !== 200 || !keys.success) throw sandboxFailed(`the OIDC provider answers ${status} and no keys`);
}

async function create(options: UpOptions, images: SandboxImages, nodes: number): Promise<void> {
  const { docker, directory, name = defaultName, signal, progress } = options;
  const id = randomBytes(8).toString('hex');
  const labels = { [sandboxLabel]: name, [runLabel]: id };
  const start = async (plan: ContainerPlan): Promise<Docker.Container> => {
    signal?.throwIfAborted();
    return startPart(docker, name, labels, plan);
  };

  progress('making certificates and keys');
  const servers = [parts.oidc, parts.openbao, parts.hpcsServer, parts.legacyServer] as const;
  const [{ authority, servers: certificates, identity }] = await Promise.all([
    makeKeys(docker, images.site, servers, signal),
    docker.createNetwork({ Name: name, Labels: labels }),
    ...Object.values(volumes).map((volume) =>
      docker.createVolume({ Name: engineName(name, volume), Labels: labels, ...(volume === volumes.vault && inMemory) }),
    ),
  ]);
  await writeDurably(join(directory, fileNames.authority), authority);
  await writeDurably(join(directory, fileNames.identity), identity.key.reveal());
  await writeDurably(join(directory, `${fileNames.identity}.pub`), `${identity.line}\n`);

  progress('starting the site, the SPIRE server and the vault');
  const policy = await spirePolicy(parseServerConfig(serverConfiguration('hpcsServer'), 'sandbox'), { agentMode: true });
  const [spire, bao, login, ...compute] = await Promise.all([
    start(spireServerPlan(images.spireServer, policy)),
    start(openbaoPlan(images.openbao, certificates[parts.openbao])),
    ...sitePlans(images.site, nodes, identity.line).map(start),
  ]);
  if (login === undefined) throw new HpcsError('bug', 'sandbox-failed', 'no login node was planned');
  await healthy(spire, parts.spireServer, () => checkSpire(spire, 'server'), signal);

  progress('starting the OIDC provider and the SPIRE agent');
  const [{ joinToken, bundle }, oidc] = await Promise.all([
    registerServer(spire, signal),
    start(oidcPlan(images.oidc, certificates[parts.oidc])),
  ]);
  const agent = await start(spireAgentPlan(images.spireAgent, joinToken, bundle));
  await writeDurably(join(directory, fileNames.bundle), bundle);

  await using clients = new AsyncDisposableStack();
  const connect = async (part: Service, container: Docker.Container): Promise<HttpClient> =>
    clients.use(
      serviceClient(
        part,
        await healthy(container, parts[part], () => publishedPort(container, ports[part]), signal),
        authority,
        60_000,
      ),
    );
  const [provider, vault] = [await connect('oidc', oidc), await connect('openbao', bao)];
  await Promise.all([
    healthy(oidc, parts.oidc, () => checkOidc(provider), signal),
    healthy(bao, parts.openbao, async () => void (await vault.json('GET', '/v1/sys/health')), signal),
    healthy(agent, parts.spireAgent, () => checkSpire(agent, 'agent'), signal),
  ]);

  progress('setting up the vault');
  const { administratorToken, unsealKey } = await setUpVault(vault, authority, signal);
  await writeDurably(
    join(directory, fileNames.vaultOwner),
    `${JSON.stringify({ administratorToken: administratorToken.reveal(), unsealKey: unsealKey.reveal() })}\n`,
  );

  progress('starting the HPCS server');
  const startServer = async (part: 'hpcsServer' | 'legacyServer'): Promise<Docker.Container> => {
    const container = await start(hpcsServerPlan(images.hpcsServer, authority, certificates[parts[part]], part));
    const client = await connect(part, container);
    await healthy(container, parts[part], () => checkHpcsServer(client), signal);
    return container;
  };
  const [server, legacyServer] = await Promise.all([
    startServer('hpcsServer'),
    options.legacy === true ? startServer('legacyServer') : undefined,
    ...[login, ...compute].map((container, index) =>
      healthy(container, index === 0 ? parts.site : nodeContainer(nodeName(index)), () => checkSite(container), signal),
    ),
  ]);

  const containers = {
    spireServer: spire,
    oidc,
    openbao: bao,
    hpcsServer: server,
    ...(legacyServer && { legacyServer }),
    site: login,
  };
  const published = Object.fromEntries(
    await Promise.all(Object.entries(containers).map(async ([part, container]) => [part, await publishedPort(container, ports[part as keyof typeof ports])])), // prettier-ignore
  ) as PublishedPorts;
  progress(`enrolling the client as ${site.user}`);
  const url = `https://127.0.0.1:${published.hpcsServer}`;
  await enrolClient(server, { name: site.user, url, ca: authority, file: join(directory, fileNames.clientKey), signal });
  const names = [`[127.0.0.1]:${published.site}`, `[localhost]:${published.site}`, parts.site];
  await writeDurably(join(directory, fileNames.knownHosts), await hostKeys(login, names));
  const state: State = { id, nodes, legacy: options.legacy === true, images: { ...images }, ports: published };
  await refreshFiles(options, state);
  // Last: with it, everything before it is true.
  await writeDurably(stateFile(directory), `${JSON.stringify(state, null, 2)}\n`);
}

// What a client needs beside keys and certificates; made again where it is missing or old.
async function refreshFiles({ docker, directory, progress }: UpOptions, { images, ports }: State): Promise<void> {
  await writeConfigurations(directory, ports as PublishedPorts);
  const programs = join(directory, fileNames.programs);
  const marker = join(programs, 'image');
  const image = images['programs'] ?? '';
  if ((await readFile(marker, 'utf8').catch(() => '')) !== image) {
    await extractPrograms(docker, image, directory);
    await writeDurably(marker, image);
  }
  if (await refreshToolKit(directory)) progress('made the tool kit');
}

// Waits for a part, and no longer than it lives.
async function healthy<Found>(
  container: Docker.Container,
  name: string,
  check: () => Promise<Found>,
  signal: AbortSignal | undefined,
): Promise<Found> {
  const deadline = Date.now() + patience;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      signal?.throwIfAborted();
      const { State } = await container.inspect();
      if (!State.Running || Date.now() > deadline) {
        const why = State.Running
          ? `did not become healthy within ${patience / 1000} s: ${messageOf(error)}`
          : `ended with ${State.ExitCode}`;
        throw new HpcsError(
          'local',
          'sandbox-part-failed',
          `${name} ${why}; its last lines: ${lastLines(await lastLog(container), 6)}`,
          {
            cause: error,
            suggestion: 'try again; if it stays, see whether the machine has memory and disk left',
          },
        );
      }
      await sleep(150, undefined, { signal });
    }
  }
}

function same(one: Readonly<Record<string, string>>, other: Readonly<Record<string, string>>): boolean {
  return Object.keys({ ...one, ...other }).every((key) => one[key] === other[key]);
}

function stateFile(directory: string): string {
  return join(directory, 'sandbox.json');
}

async function readState(directory: string): Promise<State | undefined> {
  try {
    return stateSchema.parse(JSON.parse(await readFile(stateFile(directory), 'utf8')));
  } catch {
    return undefined;
  }
}

import { randomBytes } from 'node:crypto';
import { Catalogue } from '../catalogue.ts';
import type { Config } from '../config.ts';
import { HpcsError, messageOf } from '../errors.ts';
import { accessMode, grantSecret, type AccessMode, type Granter } from '../grant.ts';
import { readCa } from '../http.ts';
import { openIdentity, readTrustBundle } from '../identity/client-identity.ts';
import type { SealFormat } from '../record.ts';
import { generateKey } from '../seal/keys.ts';
import { recipientsField, type Recipient } from '../seal/recipients.ts';
import { Secret } from '../secret.ts';
import { makeDirectory } from '../site/files.ts';
import { expandNodes, isRefusal, submit } from '../site/slurm.ts';
import type { Transport } from '../site/transport.ts';
import { assertDurable, stateDirectory } from '../state.ts';
import { looseningFlags } from '../node/container.ts';
import { localToolKit, shipToolKit } from '../tool-kit.ts';
import { openServices, type Services } from '../services.ts';
import { removeConnection } from './attend.ts';
import { readArtefact, type NamedArtefact } from './artefacts.ts';
import { chooseScripts, shipScripts } from './local-scripts.ts';
import type { JobAccess, JobPlan } from './plan.ts';
import { checkRequest, renderScript, type SlurmRequest } from './script.ts';
import { JobStore, type JobRecord } from './store.ts';
import { submitWithTicket } from './submission.ts';
import { makeTicket, ticketHash } from './ticket.ts';

/** What the user asked for, in typed values. */
export interface JobRequest {
  slurm: SlurmRequest;
  applicationInfo: string;
  dataInfo: string;
  inputScripts: string | undefined;
  outputScripts: string | undefined;
  flags: string[];
  arguments: string[];
  format: SealFormat;
  /** Who can open the results beside the holder of the state directory. */
  recipients: readonly Recipient[];
  /** Take images and data that the original prepared. */
  allowLegacy: boolean;
}

/** How a job preparation talks to the outside. */
export interface JobContext {
  config: Config;
  transport: Transport;
  signal: AbortSignal;
  progress: (line: string) => void;
  warn: (line: string) => void;
}

/** A submitted job. */
export interface SubmittedJob {
  jobId: string;
  record: JobRecord;
}

/**
 * The last stage: reads and checks the records, grants the job its own secret, renders the script and submits it.
 *
 * The keys that open the results are on disk before anything is submitted.
 */
export async function submitJob(request: JobRequest, context: JobContext): Promise<SubmittedJob> {
  const { config, transport, signal, progress, warn } = context;
  checkRequest(request.slurm);
  if (request.slurm.nodes > 1) warn(`${request.slurm.nodes} nodes are asked for, but the application runs on the first one only`);
  for (const flag of looseningFlags(request.flags))
    warn(`${flag} loosens the containment of the application; it is recorded in the result manifest`);
  const state = await stateDirectory(config);
  await assertDurable(state);
  const site = config.supercomputer.address;
  const artefacts = await readArtefacts(request, context, new Catalogue(state));
  await using services = await openServices(config);
  const mode = await accessMode(config.identity.mode, services, signal);
  const nodes = await grantedNodes(transport, request.slurm.nodelist, artefacts, mode, signal);
  const slurm = { ...request.slurm, nodelist: request.slurm.nodelist ?? nodes[0] };
  const scripts = {
    input: await chooseScripts(request.inputScripts, 'input', context),
    output: await chooseScripts(request.outputScripts, 'output', context),
  };
  const kit = await localToolKit(config);
  await makeDirectory(transport, slurm.workdir, { signal });
  const kitDirectory = config.supercomputer['tool-kit-directory'] ?? `${slurm.workdir}/.hpcs`;
  progress(`tool kit ${kit.sha256.slice(0, 16)}: shipping to ${site} unless it is there`);
  const kitPath = await shipToolKit(transport, kit, kitDirectory, signal);

  await using identity = await openIdentity(config, { signal, progress });
  const key = await generateKey(request.format);
  const granter: Granter = { services, identity, mode, signal };
  const local = randomBytes(16).toString('hex');
  const ticket = mode === 'job' ? { ...makeTicket(), file: `${kitDirectory}/ticket-${local}` } : undefined;
  const connected = config.identity.mode === 'connected';
  const ownAgents = mode === 'agent' && config['spire-agent']['socket-on-node'] !== undefined;
  const access = connected ? 'connected' : ownAgents ? 'site-agent' : mode;
  const record: JobRecord = {
    version: 1,
    local,
    site,
    username: config.supercomputer.username,
    name: slurm.jobName,
    workdir: slurm.workdir,
    created: new Date().toISOString(),
    image: { sha512: artefacts.image.planned.sha512 },
    data: { sha512: artefacts.data.planned.sha512 },
    format: request.format,
    ...(ticket && { ticket: { hash: ticketHash(ticket), file: ticket.file } }),
    access,
    ...(ticket &&
      connected && {
        connection: {
          directory: `${kitDirectory}/connect-${local}`,
          scriptHalf: ticket.scriptHalf,
          fileHalf: ticket.fileHalf,
        },
      }),
    resultKey: key.secretKey,
    authenticationKey: new Secret(randomBytes(32).toString('hex')),
  };
  const store = new JobStore(state);
  await store.save(record);
  await using unsubmitted = new AsyncDisposableStack();
  // Where sbatch was asked and did not refuse, there may be a job whose results only this record's key opens.
  let asked = false;
  const refused = (error: unknown): never => {
    asked = !isRefusal(error);
    throw error;
  };
  unsubmitted.defer(async () => {
    if (!asked) await store.remove(record);
  });
  const place = { directory: `${slurm.workdir}/.hpcs`, name: record.local, format: request.format };
  const { planned, scriptsKey } = await shipScripts(scripts, place, unsubmitted, context);
  using _scriptsKey = scriptsKey;
  progress(`identities: ${modes[access]}`);
  // Without a list the script asks for the first of the nodes.
  const granted = request.slurm.nodelist === undefined ? nodes.slice(0, 1) : nodes;
  const job = await grantJob(record, request.recipients, scriptsKey, granted, granter);
  unsubmitted.defer(() =>
    // Without the caller's signal, which may be why.
    services.server.destroySecret(job.secretPath, identity.prove).catch((error: unknown) => {
      warn(`the secret ${job.secretPath}, which this submission alone would have used, stays in the vault: ${messageOf(error)}`);
    }),
  );
  const plan: JobPlan = {
    version: 1,
    name: slurm.jobName,
    workdir: slurm.workdir,
    scratch: config.supercomputer['node-scratch'] ?? null,
    apptainer: config.supercomputer.apptainer,
    image: artefacts.image.planned,
    data: artefacts.data.planned,
    job,
    arguments: request.arguments,
    flags: request.flags,
    inputScripts: planned.input,
    outputScripts: planned.output,
    results: {
      format: request.format,
      publicKey: key.publicKey,
      recipients: request.recipients.map(({ publicKey }) => publicKey),
    },
    access: ticket
      ? {
          mode: 'job',
          ticketHalf: ticket.scriptHalf.reveal(),
          ticketFile: ticket.file,
          ...(record.connection && {
            connection: { directory: record.connection.directory, timeout: config.identity['connect-timeout'] },
          }),
        }
      : await agentAccess(config, services, signal),
    hpcsServer: await serverFromNode(config),
  };
  progress(`submitting to ${site}`);
  const script = renderScript(slurm, { path: kitPath, sha256: kit.sha256 }, plan);
  if (ticket === undefined) {
    asked = true;
    const submitted = { ...record, jobId: await submit(transport, script, { signal }).catch(refused) };
    unsubmitted.move();
    await store.save(submitted);
    return { jobId: submitted.jobId, record: submitted };
  }
  const { image, data } = artefacts;
  if (record.connection !== undefined) {
    const { directory } = record.connection;
    unsubmitted.defer(() => removeConnection(transport, directory));
    await makeDirectory(transport, directory, { signal });
  }
  asked = true;
  const jobId = await submitWithTicket(
    script,
    ticket,
    {
      artefacts: [
        { role: 'image', secret_path: image.info.secret_path, sha512: image.info.checksum },
        { role: 'data', secret_path: data.info.secret_path, sha512: data.info.checksum },
        { role: 'job', secret_path: job.secretPath },
      ],
      ...(connected && { connected }),
    },
    { ...granter, transport, progress, submitted: (id) => store.save({ ...record, jobId: id }) },
  ).catch(refused);
  unsubmitted.move();
  return { jobId, record: { ...record, jobId } };
}

/** What is in force, in words. */
const modes = {
  job: 'the job has one of its own, for which this client vouches',
  connected:
    'the job has one of its own, for which this client vouches; this client fetches its keys too: leave it running until the job has them, or run hpcs job attend',
  agent: 'the job is attested by a SPIRE agent on its node, which it starts with a join token of that node',
  'site-agent': "the job is attested by the site's own SPIRE agent on its node",
} as const;

/** Reads both info records side by side. */
async function readArtefacts(
  request: JobRequest,
  context: JobContext,
  catalogue: Catalogue,
): Promise<{ image: NamedArtefact; data: NamedArtefact }> {
  const { transport, signal, progress } = context;
  const options = { catalogue, site: context.config.supercomputer.address, allowLegacy: request.allowLegacy, signal };
  progress('reading and checking the info records');
  const image = await readArtefact(transport, 'image', request.applicationInfo, options);
  const data = await readArtefact(transport, 'data', request.dataInfo, options);
  for (const { kind, info, confirmed, original } of [image, data]) {
    if (original) for (const line of originalWarnings(kind, info.checksum, confirmed)) context.warn(line);
    if (original || confirmed) continue;
    context.warn(
      `the ${kind} was not published from here, by ${info.secret_path.split('/')[0]} instead: the site alone says that it is the right one; pin it with #sha512:${info.checksum} if you know that from its owner`,
    );
  }
  return { image, data };
}

/** What is not checked, and not done, of an artefact that the original prepared. */
function originalWarnings(kind: 'image' | 'data', checksum: string, pinned: boolean): string[] {
  const unchecked = `the ${kind} was prepared by the original HPCS: the vault holds no digest of it, so ${
    pinned
      ? 'the digest given behind #sha512: alone says what it must be'
      : `its info record on the site alone says what it must be, and whoever can write there and knows its key could exchange it; pin it with #sha512:${checksum} if you know that from its owner`
  }`;
  if (kind === 'data') return [unchecked];
  return [
    unchecked,
    'the input and output logic in the image is not run, since it wants a token in its environment: the job decrypts data and seals results outside of the image',
  ];
}

/**
 * The nodes on which this job is to run: those asked for, or those that both artefacts were granted to. A job with an identity of
 * its own may run on any where none were named.
 */
async function grantedNodes(
  transport: Transport,
  nodelist: string | undefined,
  artefacts: { image: NamedArtefact; data: NamedArtefact },
  mode: AccessMode,
  signal: AbortSignal,
): Promise<string[]> {
  const { image, data } = artefacts;
  const granted = [image, data].flatMap(({ info }) => (info.nodes === undefined ? [] : [info.nodes]));
  if (nodelist !== undefined) {
    const asked = await expandNodes(transport, nodelist, { signal });
    for (const artefact of [image, data]) {
      const missing = asked.filter((node) => artefact.info.nodes?.includes(node) === false);
      if (missing.length === 0) continue;
      throw new HpcsError(
        'identity',
        'node-not-granted',
        `the ${artefact.kind} is not granted to ${missing.join(', ')}, only to ${artefact.info.nodes?.join(', ')}`,
        {
          suggestion: 'choose another --nodelist, or prepare it again with -c for these nodes',
        },
      );
    }
    return asked;
  }
  const common = granted.length === 0 ? [] : granted.reduce((left, right) => left.filter((node) => right.includes(node)));
  if (common.length > 0 || (mode === 'job' && granted.length === 0)) return common;
  throw new HpcsError('usage', 'no-common-node', 'image and data are granted to no common node', {
    suggestion: 'name the nodes with --nodelist, or prepare them for the same nodes',
  });
}

/**
 * Gives the job a secret of its own, that only it can read: the key which authenticates its results, and the one that opens its
 * sealed scripts.
 */
async function grantJob(
  record: JobRecord,
  recipients: readonly Recipient[],
  scriptsKey: Secret | undefined,
  nodes: string[],
  granter: Granter,
): Promise<JobPlan['job']> {
  const readers = granter.mode === 'job' ? { users: [], groups: [], nodes: [] } : { users: [record.username], groups: [], nodes };
  const { secretPath, role, spiffeId } = await grantSecret(
    `job-${record.name}`,
    readers,
    {
      artefact: record.local,
      kind: 'job',
      format: 'hmac-sha256',
      created: record.created,
      ...recipientsField(recipients),
      key: record.authenticationKey.reveal(),
      ...(scriptsKey === undefined ? {} : { scriptsKey: scriptsKey.reveal() }),
    },
    granter,
  );
  return { secretPath, role, spiffeId };
}

/** The HPCS server as a compute node reaches it, with the authority it is to trust. */
async function serverFromNode(config: Config): Promise<JobPlan['hpcsServer']> {
  const server = config['hpcs-server'];
  return {
    url: server['url-from-node'] ?? server.url,
    ca: (await readCa(server['ca-file'])) ?? null,
    allowInsecureHttp: config.client['allow-insecure-http'],
  };
}

/** SPIRE and the vault as a compute node reaches them. */
async function agentAccess(config: Config, services: Services, signal: AbortSignal): Promise<JobAccess> {
  const {
    vault,
    'spire-server': spire,
    'spire-agent': { 'socket-on-node': socket },
  } = config;
  return {
    mode: 'agent',
    vault: {
      url: vault['url-from-node'] ?? vault.url,
      ca: (await readCa(vault['ca-file'])) ?? null,
      audience: vault.audience,
      ...(vault.namespace !== undefined && { namespace: vault.namespace }),
    },
    agent:
      socket === undefined
        ? {
            address: spire['address-from-node'] ?? spire.address,
            port: spire['port-from-node'] ?? spire.port,
            trustDomain: spire['trust-domain'],
            trustBundle: await readTrustBundle(spire['trust-bundle-file'], services.server, signal),
          }
        : { socket },
  };
}

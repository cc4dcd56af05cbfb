import { Catalogue } from '../catalogue.ts';
import { firstError, HpcsError } from '../errors.ts';
import { accessMode, grantSecret, type AccessMode, type Granter } from '../grant.ts';
import { openIdentity } from '../identity/client-identity.ts';
import { looseningFlags } from '../node/container.ts';
import { recipientsField, type Recipient } from '../seal/recipients.ts';
import type { Secret } from '../secret.ts';
import { openServices } from '../services.ts';
import { makeDirectory } from '../site/files.ts';
import { expandNodes, isRefusal } from '../site/slurm.ts';
import type { Transport } from '../site/transport.ts';
import { assertDurable, stateDirectory } from '../state.ts';
import { localToolKit, shipToolKit, type ShippingContext } from '../tool-kit.ts';
import { parsePin, readArtefact } from './artefacts.ts';
import { removeConnection } from './attend.ts';
import { chooseScripts, shipScripts } from './local-scripts.ts';
import { agentAccess, newJob, planOf, registrationOf, ticketAccess, type Artefacts, type JobRequest } from './new-job.ts';
import type { JobPlan } from './plan.ts';
import { checkRequest, renderScript, type ShippedToolKit } from './script.ts';
import { JobStore, type JobRecord } from './store.ts';
import { submitScript, submitWithTicket } from './submission.ts';

/** How a job preparation talks to the outside. */
export interface JobContext extends ShippingContext {
  progress: (line: string) => void;
}

/** A submitted job. */
export interface SubmittedJob {
  jobId: string;
  record: JobRecord;
}

/** Checks what can be told of a request without the site. @throws HpcsError `usage` */
export function checkJob(request: JobRequest): void {
  checkRequest(request.slurm);
  for (const named of [request.applicationInfo, request.dataInfo]) parsePin(named);
}

/**
 * The last stage: reads and checks the records, grants the job its own secret, renders the script and submits it.
 *
 * The keys that open the results are on disk before anything is submitted.
 *
 * @param request one that {@link checkJob} lets pass
 */
export async function submitJob(request: JobRequest, context: JobContext): Promise<SubmittedJob> {
  const { config, transport, signal, progress, warn } = context;
  warnOfChoices(request, warn);
  const state = await stateDirectory(config);
  await assertDurable(state);
  const artefacts = await readArtefacts(request, context, new Catalogue(state));
  await using services = await openServices(config);
  const mode = await accessMode(config.identity.mode, services, signal);
  const nodes = await grantedNodes(transport, request.slurm.nodelist, artefacts, mode, signal);
  const slurm = { ...request.slurm, nodelist: request.slurm.nodelist ?? nodes[0] };
  const scripts = {
    input: await chooseScripts(request.inputScripts, 'input', context),
    output: await chooseScripts(request.outputScripts, 'output', context),
  };
  await makeDirectory(transport, slurm.workdir, { signal });
  const kit = await kitOnSite(slurm.workdir, context);

  await using identity = await openIdentity(config, { signal, progress });
  const granter: Granter = { services, identity, mode, signal, warn };
  const job = await newJob(request, { config, artefacts, mode, kitDirectory: kit.directory });
  const { record, ticket } = job;
  const store = new JobStore(state);
  await store.save(record);
  // Taken back last: a server that does not answer must not keep what is on the site.
  await using ungranted = new AsyncDisposableStack();
  await using unsubmitted = new AsyncDisposableStack();
  // Where sbatch was asked and did not refuse, there may be a job whose results only this record's key opens.
  let asked = false;
  unsubmitted.defer(async () => {
    if (!asked) await store.remove(record);
  });
  const place = { directory: `${slurm.workdir}/.hpcs`, name: record.local, format: request.format };
  const { planned, scriptsKey } = await shipScripts(scripts, place, unsubmitted, context);
  using _scriptsKey = scriptsKey;
  progress(`identities: ${modes[job.access]}`);
  // Without a list the script asks for the first of the nodes.
  const granted = request.slurm.nodelist === undefined ? nodes.slice(0, 1) : nodes;
  const secret = await grantJob(record, request.recipients, scriptsKey, granted, granter, ungranted);
  if (record.connection !== undefined) {
    const { directory } = record.connection;
    unsubmitted.defer(() => removeConnection(transport, directory));
    await makeDirectory(transport, directory, { signal });
  }
  const access = ticket ? ticketAccess(record, ticket, config) : await agentAccess(config, services, signal);
  const plan = await planOf(request, { config, artefacts, secret, scripts: planned, publicKey: job.publicKey, access });
  const script = renderScript(slurm, kit, plan);
  progress(`submitting to ${record.site}`);
  const submitted = async (jobId: string): Promise<void> => store.save({ ...record, jobId });
  const asking = (): void => void (asked = true);
  const send = (): Promise<string> => {
    const told = { transport, signal, name: record.name, warn };
    if (ticket !== undefined)
      return submitWithTicket(script, ticket, registrationOf(artefacts, secret.secretPath, job.access), { ...granter, ...told, progress, asking, submitted }); // prettier-ignore
    asking();
    return submitScript(script, told);
  };
  const jobId = await send().catch((error: unknown) => {
    if (isRefusal(firstError(error))) asked = false;
    throw error;
  });
  unsubmitted.move();
  ungranted.move();
  if (ticket === undefined) await submitted(jobId);
  return { jobId, record: { ...record, jobId } };
}

function warnOfChoices({ slurm, flags }: JobRequest, warn: (line: string) => void): void {
  if (slurm.nodes > 1) warn(`${slurm.nodes} nodes are asked for, but the application runs on the first one only`);
  for (const flag of looseningFlags(flags))
    warn(`${flag} loosens the containment of the application; it is recorded in the result manifest`);
}

/** The tool kit on the site, and where that is. */
interface KitOnSite extends ShippedToolKit {
  /** Shared with the compute nodes; tickets lie there, too. */
  directory: string;
}

async function kitOnSite(workdir: string, context: JobContext): Promise<KitOnSite> {
  const { config, progress } = context;
  const kit = await localToolKit(config);
  const directory = config.supercomputer['tool-kit-directory'] ?? `${workdir}/.hpcs`;
  progress(`tool kit ${kit.sha256.slice(0, 16)}: shipping to ${config.supercomputer.address} unless it is there`);
  return { directory, path: await shipToolKit(kit, directory, context), sha256: kit.sha256 };
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
async function readArtefacts(request: JobRequest, context: JobContext, catalogue: Catalogue): Promise<Artefacts> {
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
  artefacts: Artefacts,
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
  undo: AsyncDisposableStack,
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
    undo,
  );
  return { secretPath, role, spiffeId };
}

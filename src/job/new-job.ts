import { randomBytes } from 'node:crypto';
import type { Config } from '../config.ts';
import type { AccessMode } from '../grant.ts';
import type { JobRegistration } from '../hpcs.ts';
import { readCa } from '../http.ts';
import { readTrustBundle } from '../identity/trust-bundle.ts';
import type { SealFormat } from '../seal/format.ts';
import { generateKey } from '../seal/keys.ts';
import type { Recipient } from '../seal/recipients.ts';
import { Secret } from '../secret.ts';
import type { Services } from '../services.ts';
import type { NamedArtefact } from './artefacts.ts';
import type { JobAccess, JobPlan } from './plan.ts';
import type { SlurmRequest } from './script.ts';
import type { JobRecord } from './store.ts';
import { makeTicket, ticketHash, type Ticket } from './ticket.ts';

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

/** What a job works with. */
export interface Artefacts {
  image: NamedArtefact;
  data: NamedArtefact;
}

/** A job that is to be submitted: what its submitter keeps of it, and what only the job gets. */
export interface NewJob {
  record: JobRecord;
  access: NonNullable<JobRecord['access']>;
  ticket: (Ticket & { file: string }) | undefined;
  /** For whom the results are sealed. */
  publicKey: string;
}

/** Makes the keys of a job, its ticket where it has an identity of its own, and the record that is kept of it. Nothing is sent. */
export async function newJob(
  { slurm, format }: JobRequest,
  { config, artefacts, mode, kitDirectory }: { config: Config; artefacts: Artefacts; mode: AccessMode; kitDirectory: string },
): Promise<NewJob> {
  const key = await generateKey(format);
  const local = randomBytes(16).toString('hex');
  const ticket = mode === 'job' ? { ...makeTicket(), file: `${kitDirectory}/ticket-${local}` } : undefined;
  const connected = config.identity.mode === 'connected';
  const ownAgents = mode === 'agent' && config['spire-agent']['socket-on-node'] !== undefined;
  const access = connected ? 'connected' : ownAgents ? 'site-agent' : mode;
  const record: JobRecord = {
    version: 1,
    local,
    site: config.supercomputer.address,
    username: config.supercomputer.username,
    name: slurm.jobName,
    workdir: slurm.workdir,
    created: new Date().toISOString(),
    image: { sha512: artefacts.image.planned.sha512 },
    data: { sha512: artefacts.data.planned.sha512 },
    format,
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
  return { record, access, ticket, publicKey: key.publicKey };
}

/** What the script carries to the node. */
export async function planOf(
  request: JobRequest,
  made: {
    config: Config;
    artefacts: Artefacts;
    secret: JobPlan['job'];
    scripts: { input: JobPlan['inputScripts']; output: JobPlan['outputScripts'] };
    publicKey: string;
    access: JobAccess;
  },
): Promise<JobPlan> {
  const { config, artefacts, secret, scripts, publicKey, access } = made;
  return {
    version: 1,
    name: request.slurm.jobName,
    workdir: request.slurm.workdir,
    scratch: config.supercomputer['node-scratch'] ?? null,
    apptainer: config.supercomputer.apptainer,
    image: artefacts.image.planned,
    data: artefacts.data.planned,
    job: secret,
    arguments: request.arguments,
    flags: request.flags,
    inputScripts: scripts.input,
    outputScripts: scripts.output,
    results: { format: request.format, publicKey, recipients: request.recipients.map((recipient) => recipient.publicKey) },
    access,
    hpcsServer: await serverFromNode(config),
  };
}

/** How a job with an identity of its own gets its keys. */
export function ticketAccess({ connection }: JobRecord, ticket: Ticket & { file: string }, { identity }: Config): JobAccess {
  return {
    mode: 'job',
    ticketHalf: ticket.scriptHalf.reveal(),
    ticketFile: ticket.file,
    ...(connection && { connection: { directory: connection.directory, timeout: identity['connect-timeout'] } }),
  };
}

/** What the HPCS server is told of a job. */
export function registrationOf(
  { image, data }: Artefacts,
  own: string,
  access: NewJob['access'],
): Pick<JobRegistration, 'artefacts' | 'connected'> {
  return {
    artefacts: [
      { role: 'image', secret_path: image.info.secret_path, sha512: image.info.checksum },
      { role: 'data', secret_path: data.info.secret_path, sha512: data.info.checksum },
      { role: 'job', secret_path: own },
    ],
    ...(access === 'connected' && { connected: true }),
  };
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
export async function agentAccess(config: Config, services: Services, signal: AbortSignal): Promise<JobAccess> {
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

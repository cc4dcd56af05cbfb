import { HpcsError } from '../errors.ts';
import { HpcsServer } from '../hpcs.ts';
import { startAgent } from '../identity/agent.ts';
import { fetchJwtSvids } from '../identity/workload-api.ts';
import type { JobPlan, PlannedArtefact } from '../job/plan.ts';
import { originalVaultRecordSchema, vaultRecordSchema, type ImageConfig } from '../record.ts';
import { Secret } from '../secret.ts';
import { Vault } from '../vault.ts';

/** What the vault holds for one artefact, checked against what was submitted. */
export interface ArtefactSecret {
  key: Secret;
  /** Null for an artefact that the original prepared. */
  artefact: string | null;
  /** How an image of ours is run; null for data, and for an image of the original's, whose entry point stands in it. */
  image: ImageConfig | null;
}

/** The secrets that a job may read. */
export interface JobKeys {
  image: ArtefactSecret;
  data: ArtefactSecret;
  authenticationKey: Secret;
  /** Opens sealed supplementary scripts, where the job has some. */
  scriptsKey: Secret | null;
}

/**
 * Becomes the readers that the plan names and reads their records from the vault: a join token for this node, an agent for as long
 * as it takes, one identity and one vault login for each record.
 *
 * @param options.node name of this node, as it was granted
 * @param options.agentProgram path of spire-agent in the checked tool kit
 * @param options.directory private directory of this job on the node
 */
export async function fetchKeys(
  plan: JobPlan,
  options: { node: string; agentProgram: string; directory: string; signal: AbortSignal; progress: (line: string) => void },
): Promise<JobKeys> {
  const { services } = plan;
  const { signal } = options;
  const allowInsecureHttp = services.allowInsecureHttp;
  await using server = new HpcsServer({
    url: services.hpcsServer.url,
    ca: services.hpcsServer.ca ?? undefined,
    allowInsecureHttp,
  });
  const { joinToken } = await server.nodeToken(options.node, signal);
  options.progress(`identity: attesting node ${options.node}`);
  await using agent = await startAgent({
    bin: options.agentProgram,
    serverAddress: services.spireServer.address,
    serverPort: services.spireServer.port,
    trustDomain: services.spireServer.trustDomain,
    trustBundle: services.spireServer.trustBundle,
    joinToken,
    parent: options.directory,
    signal,
  });
  await using vault = new Vault({ url: services.vault.url, ca: services.vault.ca ?? undefined, allowInsecureHttp });
  const read = async (what: string, secret: { secretPath: string; role: string; spiffeId: string }): Promise<unknown> => {
    const svids = await fetchJwtSvids({
      socket: agent.socket,
      audience: [services.vault.audience],
      spiffeId: secret.spiffeId,
      signal,
    });
    const svid = svids.find((candidate) => candidate.spiffeId === secret.spiffeId);
    if (svid === undefined) {
      throw new HpcsError(
        'identity',
        'no-identity',
        `this job is not a reader of the ${what}: SPIRE gave no ${secret.spiffeId} on ${options.node}`,
        {
          suggestion: 'grant it to this user and node when preparing the artefact (-u, -g, -c)',
        },
      );
    }
    await using session = await vault.login(secret.role, svid.token, signal);
    options.progress(`keys: read the record of the ${what}`);
    return await session.read(secret.secretPath, signal);
  };
  const image = checkRecord('image', plan.image, await read('image', plan.image));
  const data = checkRecord('data', plan.data, await read('data', plan.data));
  const job = vaultRecordSchema.safeParse(await read('job', plan.job));
  if (!job.success) throw unknownForm('job');
  if (job.data.kind !== 'job') throw mismatch('job', 'kind', 'job', job.data.kind);
  const { key, scriptsKey } = job.data;
  return {
    image,
    data,
    authenticationKey: new Secret(key),
    scriptsKey: scriptsKey === undefined ? null : new Secret(scriptsKey),
  };
}

/**
 * Compares what the submitter planned with the vault's record, which is the truth.
 *
 * The original's record, a key alone, is taken only where the plan allows it. A full record is checked whatever the plan allows: an
 * info record from which fields were removed gains nothing.
 *
 * @param content what the vault holds
 * @throws HpcsError `integrity` `record-mismatch` naming the field, or `vault-record-invalid`
 */
export function checkRecord(kind: 'image' | 'data', planned: PlannedArtefact, content: unknown): ArtefactSecret {
  const full = vaultRecordSchema.safeParse(content);
  if (!full.success) {
    const original = originalVaultRecordSchema.safeParse(content);
    if (!original.success || planned.legacy !== true) throw unknownForm(kind);
    return { key: new Secret(original.data.key), artefact: null, image: null };
  }
  const record = full.data;
  if (record.kind !== kind) throw mismatch(kind, 'kind', kind, record.kind);
  if (record.format !== planned.format) throw mismatch(kind, 'format', planned.format, record.format);
  if (record.sha512 !== planned.sha512) throw mismatch(kind, 'sha512', short(planned.sha512), short(record.sha512 ?? 'none'));
  if (planned.artefact !== undefined && record.artefact !== planned.artefact) {
    throw mismatch(kind, 'artefact id', planned.artefact, record.artefact);
  }
  if (planned.size !== undefined && record.size !== planned.size)
    throw mismatch(kind, 'size', String(planned.size), String(record.size));
  if (kind === 'image' && record.image === undefined) throw unknownForm(kind);
  return { key: new Secret(record.key), artefact: record.artefact, image: record.image ?? null };
}

// What the original stores beside a key says nothing of the bytes: the job could not tell them from forged ones.
function unknownForm(what: string): HpcsError {
  return new HpcsError('integrity', 'vault-record-invalid', `the vault's record of the ${what} is not one of hpcs-client's`, {
    suggestion:
      'prepare it again; one that the original HPCS prepared needs its own info record and job-prep --allow-legacy-image',
  });
}

function mismatch(kind: string, field: string, planned: string, recorded: string): HpcsError {
  return new HpcsError(
    'integrity',
    'record-mismatch',
    `the ${kind} is not the one in the vault's record: its ${field} was ${planned} at submission, the vault says ${recorded}`,
    {
      suggestion: `the info record was altered, or names another artefact: prepare the ${kind} again, or submit with its right info record`,
    },
  );
}

function short(digest: string): string {
  return `${digest.slice(0, 16)}…`;
}

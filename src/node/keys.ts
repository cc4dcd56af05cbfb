import { HpcsError } from '../errors.ts';
import type { JobPlan, PlannedArtefact } from '../job/plan.ts';
import { originalVaultRecordSchema, vaultRecordSchema, type ImageConfig } from '../record.ts';
import { Secret } from '../secret.ts';
import type { KeyContext, RecordRole } from './key-context.ts';
import { becomeReaders } from './readers.ts';
import { redeemTicket } from './redeem.ts';

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
 * Gets the records of the job's image, data and own secret, in the way that the plan says, and holds them against the plan.
 *
 * @throws HpcsError `identity` when they are not given, `integrity` when they are not the ones that were submitted
 */
export async function fetchKeys(plan: JobPlan, context: KeyContext): Promise<JobKeys> {
  const { access } = plan;
  if (access.mode === 'job') {
    const records = await redeemTicket(plan, access, context);
    return checkedKeys(plan, async (role) => records[role]);
  }
  await using readers = await becomeReaders(plan, access, context);
  return await checkedKeys(plan, (role) => readers.read(role));
}

async function checkedKeys(plan: JobPlan, read: (role: RecordRole) => Promise<unknown>): Promise<JobKeys> {
  const image = checkRecord('image', plan.image, await read('image'));
  const data = checkRecord('data', plan.data, await read('data'));
  const job = vaultRecordSchema.safeParse(await read('job'));
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

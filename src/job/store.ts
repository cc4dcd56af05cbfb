import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { sealFormats } from '../seal/format.ts';
import { Secret } from '../secret.ts';
import { readRecords, writeDurably } from '../state.ts';
import { ticketHalf } from './ticket.ts';

const half = z
  .string()
  .regex(ticketHalf)
  .transform((text) => new Secret(text));

const schema = z.object({
  version: z.literal(1),
  /** Name of the record itself: random, known before the scheduler names the job. */
  local: z.string().regex(/^[0-9a-f]{32}$/),
  /** The scheduler's job id; absent until the job is submitted. */
  jobId: z.string().optional(),
  site: z.string(),
  username: z.string(),
  name: z.string(),
  workdir: z.string(),
  created: z.string(),
  image: z.object({ sha512: z.string() }),
  data: z.object({ sha512: z.string() }),
  format: z.enum(sealFormats),
  /** The job's ticket, where it has one: its SHA-256, by which the HPCS server knows it, and the file on the site with one half. */
  ticket: z
    .object({
      hash: z.string(),
      file: z.string(),
      /** Once the server was told that the job has ended; with what it said that was wrong. */
      ended: z
        .object({
          alarm: z.string().nullable(),
          /** Whether files of it may still lie on the site. */
          left: z.boolean().optional(),
        })
        .optional(),
    })
    .optional(),
  /** How the job got its keys: by itself, through this client, or as a reader that an agent attests, its own or the site's. */
  access: z.enum(['job', 'connected', 'agent', 'site-agent']).optional(),
  /** In connected mode: where job and client meet on the site, and both halves of the ticket, which authenticate what they write. */
  connection: z
    .object({
      directory: z.string().startsWith('/'),
      scriptHalf: half,
      fileHalf: half,
      /** When the job was brought its keys: RFC 3339. */
      answered: z.string().optional(),
    })
    .optional(),
  /** Secret key that opens the results. */
  resultKey: z.string().transform((text) => new Secret(text)),
  /** Key of the result manifest's HMAC, 32 bytes in hex. */
  authenticationKey: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .transform((text) => new Secret(text)),
});

/** What the submitter keeps of a job: without it the results are lost, so it is on disk before anything is submitted. */
export type JobRecord = z.output<typeof schema>;

/** A submitted job, as its client knows it. */
export type SubmittedRecord = JobRecord & { jobId: string };

/** What is kept of a job's ticket. */
export type JobTicket = NonNullable<JobRecord['ticket']>;

/** The private store of a client's jobs, one file of mode 0600 a job below the state directory. */
export class JobStore {
  readonly #directory: string;

  constructor(stateDirectory: string) {
    this.#directory = join(stateDirectory, 'jobs');
  }

  /** Writes a record durably, over an earlier state of the same one. */
  async save(record: JobRecord): Promise<void> {
    const keys = { resultKey: record.resultKey.reveal(), authenticationKey: record.authenticationKey.reveal() };
    const { connection: met } = record;
    const connection = met && { ...met, scriptHalf: met.scriptHalf.reveal(), fileHalf: met.fileHalf.reveal() };
    await writeDurably(this.#fileOf(record), JSON.stringify({ ...record, ...keys, connection }));
  }

  /** A record as it is on disk now, which another process may have changed; as it was given where it cannot be read there. */
  async latest(record: JobRecord): Promise<JobRecord> {
    try {
      return schema.parse(JSON.parse(await readFile(this.#fileOf(record), 'utf8')));
    } catch {
      return record;
    }
  }

  /** Changes a record as it is on disk now. @returns the changed one */
  async update(record: JobRecord, change: (latest: JobRecord) => JobRecord): Promise<JobRecord> {
    const changed = change(await this.latest(record));
    await this.save(changed);
    return changed;
  }

  /** Removes the record of a job that was never submitted: there will be no results that its key opens. */
  async remove(record: JobRecord): Promise<void> {
    await rm(this.#fileOf(record), { force: true });
  }

  /** All records, newest first. @throws HpcsError `local` naming one that cannot be read */
  async list(): Promise<JobRecord[]> {
    return (await readRecords(this.#directory, schema)).toSorted((a, b) => b.created.localeCompare(a.created));
  }

  /**
   * The newest record of a job id at a site.
   *
   * @throws HpcsError `usage` when this store knows none
   */
  async find(jobId: string, site: string): Promise<JobRecord> {
    const record = (await this.list()).find((candidate) => candidate.jobId === jobId && candidate.site === site);
    if (record !== undefined) return record;
    throw new HpcsError(
      'usage',
      'job-unknown',
      `job ${jobId} on ${site} was not submitted from this state directory (${this.#directory})`,
      {
        suggestion: 'set HPCS_STATE_DIR to that of the machine or container which submitted it',
      },
    );
  }

  #fileOf({ local }: JobRecord): string {
    return join(this.#directory, `${local}.json`);
  }
}

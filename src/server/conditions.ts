import { z } from 'zod';

const sha512 = z.string().regex(/^[0-9a-f]{128}$/);

/** So many jobs a grant may count: each is remembered in the grant's record, and the vault's records end at a mebibyte. */
const mostJobs = 1000;

/** What must hold for a grant to let a job in, as an owner asks for it. */
export const conditionsShape = {
  /** SHA-512 of the sealed image that the job must run. */
  image: sha512.optional(),
  /** RFC 3339 time at which the grant ends. */
  until: z.iso.datetime({ offset: true }).optional(),
  /** Jobs that may use it, in all. */
  jobs: z.int().min(1).max(mostJobs).optional(),
};

/** One grant: to whom, and what must hold. */
export const grantRecord = z.strictObject({
  /** 8 hex characters, random: what an owner takes it back by. */
  id: z.string(),
  /** Client ids of those who may use the secret in a job, the owner aside. */
  clients: z.array(z.string()),
  /** Groups of clients who may. */
  groups: z.array(z.string()),
  ...conditionsShape,
  /** Ticket hashes of the jobs that count against {@link conditionsShape.jobs}; none are kept where they are not limited. */
  used: z.array(z.string()),
  created: z.string(),
});
export type GrantRecord = z.output<typeof grantRecord>;

/** A job that asks to be let in. */
export interface Asking {
  /** Its own name, given by the server, by which it is counted once however often it asks. */
  handle: string;
  /** SHA-512 of the sealed image that it runs. */
  image: string | undefined;
}

/** Why a grant does not let a job in now, in words; undefined where it does. */
export function hindrance(grant: GrantRecord, job: Asking): string | undefined {
  if (grant.until !== undefined && new Date(grant.until) <= new Date()) return `ended at ${grant.until}`;
  if (grant.image !== undefined && grant.image !== job.image) return 'is for jobs with another image';
  if (grant.jobs !== undefined && !grant.used.includes(job.handle) && grant.used.length >= grant.jobs)
    return grant.jobs === 1 ? 'was for one job, which there is' : `was for ${grant.jobs} jobs, which there are`;
  return undefined;
}

/**
 * The grant that lets a job in, of those made to its submitter: one that counts it already, else one that counts no jobs, so that
 * those which do last longer.
 */
export function choose(grants: readonly GrantRecord[], job: Asking): GrantRecord | undefined {
  const open = grants.filter((grant) => hindrance(grant, job) === undefined);
  return open.find(({ used }) => used.includes(job.handle)) ?? open.find(({ jobs }) => jobs === undefined) ?? open[0];
}

/** What of a grant must be the same for it to be the same one asked for again. */
export function gist({ clients, groups, image, until, jobs }: Omit<GrantRecord, 'id' | 'used' | 'created'>): string {
  return JSON.stringify([clients.toSorted(), groups.toSorted(), image, until, jobs]);
}

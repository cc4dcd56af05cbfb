import { z } from 'zod';
import { imageConfigSchema } from '../record.ts';
import { sealFormats } from '../seal/format.ts';
import { ticketHalf } from './ticket.ts';

const sha512 = z.string().regex(/^[0-9a-f]{128}$/);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** An artefact as the submitter saw it: where it lies, whose identity reads it, and what its bytes must be. */
const artefactSchema = z.object({
  path: z.string().startsWith('/'),
  secretPath: z.string(),
  role: z.string(),
  spiffeId: z.string(),
  format: z.enum(sealFormats),
  sha512,
  size: z.number().int().nonnegative().optional(),
  /** Artefact id, where the info record has one. */
  artefact: z.string().optional(),
  /** Set where the submitter allows that the vault holds a key of the original's and no record to check the bytes against. */
  legacy: z.literal(true).optional(),
});
export type PlannedArtefact = z.output<typeof artefactSchema>;

/** Supplementary scripts in a directory on the site, with the digest of every file in it at submission. */
const pinnedScriptsSchema = z.object({
  directory: z.string().startsWith('/'),
  files: z.array(z.object({ path: z.string(), sha256 })),
});
export type PinnedScripts = z.output<typeof pinnedScriptsSchema>;

/** Supplementary scripts of the submitter's machine: one sealed archive on the site, whose key lies in the job's own secret. */
const sealedScriptsSchema = z.object({ sealed: z.string().startsWith('/'), sha512 });
export type SealedScripts = z.output<typeof sealedScriptsSchema>;

/** Supplementary scripts of one kind. */
const scriptsSchema = z.union([pinnedScriptsSchema, sealedScriptsSchema]);
export type PlannedScripts = z.output<typeof scriptsSchema>;

/** How a job reaches its client, where its node reaches no service. */
const connectionSchema = z.object({
  /** Directory of the submitter's alone, on storage that login node and node share. */
  directory: z.string().startsWith('/'),
  /** Seconds that the job waits for its client. */
  timeout: z.int().positive(),
});
export type Connection = z.output<typeof connectionSchema>;

/** How the job gets its keys: with a ticket of its own, or as a reader that a SPIRE agent on its node attests. */
const accessSchema = z.discriminatedUnion('mode', [
  z.object({
    mode: z.literal('job'),
    /** One half of the ticket: worth nothing without the other. */
    ticketHalf: z.string().regex(ticketHalf),
    /** File on the site with the other half, which only the submitter can read. */
    ticketFile: z.string().startsWith('/'),
    /** Set where the client redeems the ticket for the job. */
    connection: connectionSchema.optional(),
  }),
  z.object({
    mode: z.literal('agent'),
    vault: z.object({ url: z.string(), ca: z.string().nullable(), audience: z.string(), namespace: z.string().optional() }),
    /** Who attests: the site's own agent at this Workload API, or one that the job starts, at this SPIRE server. */
    agent: z.union([
      z.object({ socket: z.string() }),
      z.object({ address: z.string(), port: z.number().int(), trustDomain: z.string(), trustBundle: z.string() }),
    ]),
  }),
]);
export type JobAccess = z.output<typeof accessSchema>;

/**
 * All that `hpcs-node` needs to know, as it stands in the batch script: no secret but half a ticket, and nothing that the site could change
 * unnoticed and profit from.
 */
export const jobPlanSchema = z.object({
  version: z.literal(1),
  name: z.string(),
  workdir: z.string().startsWith('/'),
  /** Node-local directory for the encrypted work volume; the workdir where null. */
  scratch: z.string().startsWith('/').nullable(),
  apptainer: z.string(),
  image: artefactSchema,
  data: artefactSchema,
  /** The submitter's own secret: the key that authenticates the result manifest, and the one that opens sealed scripts. */
  job: z.object({ secretPath: z.string(), role: z.string(), spiffeId: z.string() }),
  arguments: z.array(z.string()),
  flags: z.array(z.string()),
  inputScripts: scriptsSchema.nullable(),
  outputScripts: scriptsSchema.nullable(),
  /** Public keys: the job's own, and those of owner recipients. */
  results: z.object({ format: z.enum(sealFormats), publicKey: z.string(), recipients: z.array(z.string()) }),
  access: accessSchema,
  hpcsServer: z.object({ url: z.string(), ca: z.string().nullable(), allowInsecureHttp: z.boolean() }),
});
export type JobPlan = z.output<typeof jobPlanSchema>;

/** What the outer half of `hpcs-node` hands to the half inside the private namespace, through a pipe. */
export const insideSchema = z.object({
  plan: jobPlanSchema,
  jobId: z.string(),
  restart: z.number().int(),
  resultDirectory: z.string(),
  privateDirectory: z.string(),
  /** Both of an artefact of the original's are null: it has no id, and its image is run by its own entry point. */
  image: z.object({ key: z.string(), artefact: z.string().nullable(), config: imageConfigSchema.nullable() }),
  data: z.object({ key: z.string(), artefact: z.string().nullable() }),
  authenticationKey: z.string().regex(/^[0-9a-f]{64}$/),
  /** Opens sealed supplementary scripts; null for a job that has none. */
  scriptsKey: z.string().nullable(),
});
export type Inside = z.output<typeof insideSchema>;

import { randomBytes } from 'node:crypto';
import { parse, stringify } from 'yaml';
import { z } from 'zod';
import { HpcsError, messageOf } from './errors.ts';

/** How an artefact is sealed. The original knows only `age`. */
export const sealFormats = ['openpgp', 'age'] as const;
export type SealFormat = (typeof sealFormats)[number];

const sha512 = z.string().regex(/^[0-9a-f]{128}$/, 'a SHA-512 digest in hex');
const name = z.string().regex(/^[A-Za-z0-9._-]+$/, 'a name of letters, digits, dots, dashes');

/** What the image says about running it, kept from the OCI image configuration. @see OCI image-spec, config.md */
export const imageConfigSchema = z.object({
  entrypoint: z.array(z.string()),
  cmd: z.array(z.string()),
  env: z.array(z.string()),
  workdir: z.string(),
  user: z.string(),
  /** `sha256:…` of the image that was pulled, or its local id. */
  digest: z.string(),
  /** For example `linux/amd64`. */
  platform: z.string(),
});
export type ImageConfig = z.output<typeof imageConfigSchema>;

/**
 * The record beside `key` in the vault: the truth about one artefact. The job checks the sealed bytes against it, so that the
 * site can neither swap nor roll back nor repoint artefacts.
 */
export const vaultRecordSchema = z.object({
  /** Artefact id: 32 hex characters, random. */
  artefact: z.string().regex(/^[0-9a-f]{32}$/),
  kind: z.enum(['image', 'data', 'job']),
  format: z.enum([...sealFormats, 'hmac-sha256']),
  sha512: sha512.optional(),
  /** Sealed bytes. */
  size: z.number().int().nonnegative().optional(),
  /** SPIFFE ID of the client that made it. */
  owner: z.string(),
  /** RFC 3339 time. */
  created: z.string(),
  image: imageConfigSchema.optional(),
  /** Armored OpenPGP secret key, `AGE-SECRET-KEY-1…`, or for a job the authentication key in hex. */
  key: z.string(),
});
export type VaultRecord = z.output<typeof vaultRecordSchema>;

const infoSchema = z.object({
  path_at_rest: z.string().startsWith('/'),
  secret_path: z.string().regex(/^client_[0-9a-f]{9}\/[A-Za-z0-9._-]+$/, 'client_<id>/<secret>'),
  access_role: z.string().regex(/^client_[0-9a-f]{9}-[A-Za-z0-9._-]+$/, 'client_<id>-<secret>'),
  checksum: sha512,
  spiffeID: z.string().startsWith('spiffe://'),
  format: z.enum(sealFormats).default('age'),
  kind: z.enum(['image', 'data']).optional(),
  artefact: z.string().optional(),
  size: z.number().int().nonnegative().optional(),
  nodes: z.array(name).optional(),
});
/** The `.info.yaml` beside an artefact on the site: a hint, which the vault's record confirms or refutes. */
export type InfoRecord = z.output<typeof infoSchema>;

/** Reads an info record; one without `format` is the original's and means age. @throws HpcsError `integrity` */
export function parseInfoRecord(content: string, path: string): InfoRecord {
  let parsed: unknown;
  try {
    parsed = parse(content);
  } catch (error) {
    throw invalid(path, messageOf(error).split('\n')[0] ?? 'not YAML', error);
  }
  const result = z.object({ info: infoSchema }).safeParse(parsed);
  if (result.success) return result.data.info;
  const issue = result.error.issues[0];
  throw invalid(path, `${issue?.path.join('.') ?? 'info'}: ${issue?.message ?? 'invalid'}`, result.error);
}

/** The text of an info record. */
export function renderInfoRecord(info: InfoRecord): string {
  return stringify({ info }, { lineWidth: 0 });
}

/**
 * A new secret name: a readable part of the file's name and 128 random bits, in characters that vault, SPIFFE and file systems
 * treat alike (the vault lower-cases role and policy names, so upper case would make twins of different names).
 */
export function secretName(fileName: string): string {
  const slug = fileName.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').replaceAll(/^-+|-+$/g, '').slice(0, 60); // prettier-ignore
  return `${slug || 'artefact'}-${randomBytes(16).toString('hex')}`;
}

function invalid(path: string, what: string, cause: unknown): HpcsError {
  return new HpcsError('integrity', 'info-record-invalid', `the info record ${path} is not valid: ${what}`, {
    cause,
    suggestion: 'prepare the artefact again, or name another info record',
  });
}

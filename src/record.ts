import { randomBytes } from 'node:crypto';
import { parse, stringify } from 'yaml';
import { z } from 'zod';
import { HpcsError } from './errors.ts';
import { sealFormats } from './seal/format.ts';

const sha512 = z.string({ error: 'a SHA-512 digest in hex' }).regex(/^[0-9a-f]{128}$/, 'a SHA-512 digest in hex');
const name = z.string({ error: 'a name' }).regex(/^[A-Za-z0-9._-]+$/, 'a name of letters, digits, dots, dashes');
/** Artefact id: 32 hex characters, random. */
const artefactId = z.string({ error: 'an artefact id' }).regex(/^[0-9a-f]{32}$/, 'an artefact id');
const secretPathForm = 'client_<id>/<secret>';
const roleForm = 'client_<id>-<secret>';

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
  artefact: artefactId,
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
  /** Who can open it beside the holder of `key`: fingerprints of OpenPGP certificates, or `age1…`. */
  recipients: z.array(z.string()).optional(),
  /** Armored OpenPGP secret key, `AGE-SECRET-KEY-1…`, or for a job the authentication key in hex. */
  key: z.string(),
  /** For a job with supplementary scripts of the submitter's: the secret key that opens them. */
  scriptsKey: z.string().optional(),
});
export type VaultRecord = z.output<typeof vaultRecordSchema>;

/** All that the original keeps in the vault: a key, which opens the bytes and does not say what they must be. */
export const originalVaultRecordSchema = z.strictObject({ key: z.string() });

// All three are made from a client id and the name of a secret: where they differ, somebody has altered one.
function belongTogether(info: { secret_path: string; access_role: string; spiffeID: string }): boolean {
  const [, client = '', secret = ''] = /^client_([^/]*)\/(.*)$/.exec(info.secret_path) ?? [];
  return info.access_role === `client_${client}-${secret}` && info.spiffeID.endsWith(`/c/${client}/s/${secret}`);
}

// The site may have written it: what is shown or handed on from it holds no control characters.
const infoSchema = z
  .object(
    {
      path_at_rest: z.string({ error: 'an absolute path' }).regex(/^\/\P{Cc}*$/u, 'an absolute path'),
      secret_path: z.string({ error: secretPathForm }).regex(/^client_[0-9a-f]{9}\/[A-Za-z0-9._-]+$/, secretPathForm),
      access_role: z.string({ error: roleForm }).regex(/^client_[0-9a-f]{9}-[A-Za-z0-9._-]+$/, roleForm),
      checksum: sha512,
      spiffeID: z.string({ error: 'a SPIFFE ID' }).regex(/^spiffe:\/\/[a-z0-9._-]+(\/[A-Za-z0-9._-]+)+$/, 'a SPIFFE ID'),
      format: z.enum(sealFormats, { error: sealFormats.join(' or ') }).default('age'),
      kind: z.enum(['image', 'data'], { error: 'image or data' }).optional(),
      artefact: artefactId.optional(),
      size: z.int({ error: 'a number of bytes' }).nonnegative('a number of bytes').optional(),
      nodes: z.array(name, { error: 'a list of names' }).optional(),
    },
    { error: 'an info record' },
  )
  .refine((info) => belongTogether(info), 'a secret_path, access_role and spiffeID of one secret');
/** The `.info.yaml` beside an artefact on the site: a hint, which the vault's record confirms or refutes. */
export type InfoRecord = z.output<typeof infoSchema>;

/**
 * Reads an info record; one without `format` is the original's and means age.
 *
 * @param path where it lies, for messages
 * @throws HpcsError `integrity` naming the first field that is wrong and what was expected
 */
export function parseInfoRecord(content: string, path: string): InfoRecord {
  let parsed: unknown;
  try {
    parsed = parse(content, { logLevel: 'error' });
  } catch (error) {
    throw invalid(path, 'it is not YAML', error);
  }
  const result = z.object({ info: infoSchema }, { error: 'an info record' }).safeParse(parsed);
  if (result.success) return result.data.info;
  const issue = result.error.issues[0];
  throw invalid(path, `${issue?.path.join('.') || 'it'}: expected ${issue?.message ?? 'something else'}`, result.error);
}

/** Whether the original wrote an info record: it names neither what it is of nor an artefact of ours. */
export function isOriginal(info: InfoRecord): boolean {
  return info.kind === undefined && info.artefact === undefined;
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
  const slug = fileName.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').slice(0, 60).replaceAll(/^-+|-+$/g, ''); // prettier-ignore
  return `${slug || 'artefact'}-${randomBytes(16).toString('hex')}`;
}

function invalid(path: string, what: string, cause: unknown): HpcsError {
  return new HpcsError('integrity', 'info-record-invalid', `the info record ${path} is not valid: ${what}`, {
    cause,
    suggestion: 'prepare the artefact again, or name another info record',
  });
}

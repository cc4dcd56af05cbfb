import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { ticketHalf } from '../job/ticket.ts';
import { conditionsShape } from './conditions.ts';

/**
 * The bodies of calls, and the names that a client may choose in them. These end up in SPIFFE paths, in names of the vault's roles and policies, and within the
 * text of policies, so that only characters which mean nothing to any of them are allowed.
 */

const notDots = (value: string): boolean => !/^\.+$/.test(value);

/** A UNIX user or group, or a host: letters, digits, dots, dashes, underscores. @see SPIFFE-ID, 2.2 (path segments) */
const unixName = z
  .string()
  .max(253)
  .regex(/^[A-Za-z0-9._-]+$/)
  .refine(notDots);

/**
 * A secret's name. Lower case only, because the vault lower-cases the names of roles and policies, which would make twins of
 * different names; it also loses a final dot.
 */
const secretName = z
  .string()
  .max(200)
  .regex(/^[a-z0-9](?:[a-z0-9._-]*[a-z0-9_-])?$/);

const people = z
  .array(unixName)
  .max(1000)
  .nullish()
  .transform((value) => [...new Set(value ?? [])]);

/** Body of `POST /api/client/create-workloads`. */
export const workloadsBody = z
  .object({
    jwt: z.string().min(1).max(16_384),
    secret: secretName,
    users: people,
    groups: people,
    compute_nodes: z
      .array(unixName)
      .min(1)
      .max(10_000)
      .transform((value) => [...new Set(value)]),
  })
  .refine(({ users, groups }) => users.length + groups.length > 0, { path: ['users'] })
  .refine(({ users, groups, compute_nodes }) => (users.length + groups.length) * compute_nodes.length <= 10_000, {
    path: ['compute_nodes'],
  });

/** Who may read what, checked. */
export type WorkloadsBody = z.output<typeof workloadsBody>;

/** Body of `POST /api/client/register`. The original sends none. */
export const registerBody = z
  .object({ uid: z.number().int().min(0).max(4_294_967_294).optional() })
  .nullish()
  .transform((value) => value ?? {});

/** A name under which somebody is enrolled, or a client id. Lower case: two people shall not differ in case alone. */
const principal = z.string().regex(/^[a-z0-9][a-z0-9._@-]{0,62}$/);

/** A name to enrol somebody under: not one that looks like a client id. */
export const enrolledName = principal.refine((value) => !/^[0-9a-f]{9}$/.test(value));

/**
 * Somebody known to a trusted issuer: `oidc:<alias>:<subject>`, the subject as the issuer writes it. No enrolled name holds a colon.
 */
const issuersName = z.string().regex(/^oidc:[a-z0-9][a-z0-9-]{0,30}:[\x21-\x2b\x2d-\x7e]{1,255}$/);

/** Clients, by id, enrolled name, or name of their issuer. */
const clientPrincipals = z.array(z.union([principal, issuersName])).max(1000).transform((value) => [...new Set(value)]); // prettier-ignore
const principals = z.array(principal).max(1000).transform((value) => [...new Set(value)]); // prettier-ignore

/** Body of `POST /api/client/enrol`. */
export const enrolBody = z.object({ token: z.string().regex(/^[A-Za-z0-9_-]{43}$/) });

/** Body of `POST /api/client/login`. */
export const loginBody = z.object({ id_token: z.string().min(1).max(16_384) });

/** Body of `POST /api/client/token`. */
export const tokenBody = z.object({ audience: z.string().min(1).max(255) });

/** Body of `POST /api/client/resolve`. */
export const resolveBody = z.object({ clients: z.array(z.string().max(300)).max(1000) });

/** Body of `POST /api/client/grants`. */
export const permitBody = z.object({
  secret: secretName,
  clients: clientPrincipals,
  groups: principals,
  ...conditionsShape,
});
export type PermitBody = z.output<typeof permitBody>;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const jobId = z.string().regex(/^[0-9]{1,19}$/);
// With upper case, which old clients use: it stands in a path of the vault, which keeps it, and in no role's name.
const secretPath = z.string().regex(/^client_[0-9a-f]{9}\/[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?$/).max(220); // prettier-ignore

/** Body of `POST /api/access/grant`. */
export const addBody = z.object({ secret_path: secretPath, clients: clientPrincipals, groups: principals, ...conditionsShape });

export type AddBody = z.output<typeof addBody>;

/** Body of `POST /api/access/list`: one secret, or all of the caller's that are granted to somebody. */
export const listBody = z.object({ secret_path: secretPath.optional() });

/** Body of `POST /api/access/revoke`. */
export const revokeBody = z
  .object({
    secret_path: secretPath,
    grants: z.array(z.string().regex(/^[0-9a-f]{8}$/)).max(1000).default([]), // prettier-ignore
    clients: clientPrincipals.default([]),
    groups: principals.default([]),
    all: z.boolean().default(false),
  })
  .refine(({ grants, clients, groups, all }) => all || grants.length + clients.length + groups.length > 0, { path: ['all'] });

export type RevokeBody = z.output<typeof revokeBody>;

/** Body of `POST /api/access/destroy`. */
export const destroyBody = z.object({ secret_path: secretPath });

/** Owner and name in `client_<id>/<name>`, of the form that bodies are checked for. */
export function parseSecretPath(path: string): { owner: string; secret: string } {
  const [, owner, secret] = /^client_([0-9a-f]{9})\/(.+)$/.exec(secretPath.safeParse(path).data ?? '') ?? [];
  if (owner !== undefined && secret !== undefined) return { owner, secret };
  throw new HpcsError('usage', 'bad-request', 'secret_path: expected client_<id>/<secret>');
}

/** Whether a path is one that {@link parseSecretPath} takes. */
export function isSecretPath(path: string): boolean {
  return secretPath.safeParse(path).success;
}

/** Days that a job may wait before its ticket expires. */
const longestWait = 30;

/** Body of `POST /api/jobs`. */
export const jobBody = z
  .object({
    job: jobId,
    ticket: sha256,
    artefacts: z
      .array(
        z.object({
          role: z.enum(['image', 'data', 'job']),
          secret_path: secretPath,
          sha512: z.string().regex(/^[0-9a-f]{128}$/).optional(), // prettier-ignore
        }),
      )
      .min(1)
      .max(16),
    /** Redeemed by its submitter, with a proof: the ticket alone opens nothing. */
    connected: z.boolean().default(false),
    lifetime: z.int().min(60).max(longestWait * 86_400).default(7 * 86_400), // prettier-ignore
  })
  .refine(({ artefacts }) => new Set(artefacts.map(({ role }) => role)).size === artefacts.length, { path: ['artefacts'] });
export type JobBody = z.output<typeof jobBody>;

/** Body of `POST /api/jobs/redeem`. */
export const redeemBody = z.object({
  halves: z.tuple([z.string().regex(ticketHalf), z.string().regex(ticketHalf)]),
  job: jobId,
  key: z.string().regex(/^age1[02-9ac-hj-np-z]{58}$/),
});

/** Body of `POST /api/jobs/end`. */
export const endBody = z.object({ ticket: sha256 });

/** Query of `POST /api/agents/token`, as the original has it. */
export const nodeQuery = z.object({ hostname: unixName });

/** Body of `POST /api/agents/token` where callers prove who they are: a proof covers the body, and no query. */
export const nodeBody = z.object({ hostname: unixName });

/** What is expected of each value, for messages. */
export const expectations: Readonly<Record<string, string>> = {
  jwt: 'a JWT-SVID',
  secret: 'a name of lower-case letters, digits, dots, dashes and underscores, beginning with a letter or digit',
  users: 'a list of user names (letters, digits, dots, dashes, underscores), or groups instead',
  groups: 'a list of group names (letters, digits, dots, dashes, underscores)',
  compute_nodes: 'a list of host names (letters, digits, dots, dashes, underscores), at most 10000 readers in all',
  hostname: 'a host name (letters, digits, dots, dashes, underscores)',
  uid: 'a user id',
  token: 'an enrolment token',
  audience: 'an audience',
  id_token: 'an ID token of a trusted issuer',
  clients: 'a list of client ids, enrolled names (lower-case letters, digits, dots, dashes), or names oidc:ISSUER:SUBJECT',
  image: 'the SHA-512 of a sealed image, in hex',
  until: 'an RFC 3339 time',
  jobs: 'a number of jobs, from 1 to 1000',
  secret_path: 'client_<id>/<secret>',
  grants: 'a list of ids of grants',
  all: 'what is to be taken back: grants, clients, groups, or all',
  job: 'a job id',
  ticket: 'the SHA-256 of a ticket, in hex',
  artefacts: 'a list of artefacts with role, secret_path and sha512, one of each role',
  connected: 'true or false',
  lifetime: 'seconds, from 60 to 30 days',
  halves: 'the two halves of a ticket',
  key: 'an age recipient (age1…)',
};

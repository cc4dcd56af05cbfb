import { z } from 'zod';

/**
 * The names that a client may choose. They end up in SPIFFE paths, in names of the vault's roles and policies, and within the
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

/** Query of `POST /api/agents/token`. */
export const nodeQuery = z.object({ hostname: unixName });

/** What is expected of each value, for messages. */
export const expectations: Readonly<Record<string, string>> = {
  jwt: 'a JWT-SVID',
  secret: 'a name of lower-case letters, digits, dots, dashes and underscores, beginning with a letter or digit',
  users: 'a list of user names (letters, digits, dots, dashes, underscores), or groups instead',
  groups: 'a list of group names (letters, digits, dots, dashes, underscores)',
  compute_nodes: 'a list of host names (letters, digits, dots, dashes, underscores), at most 10000 readers in all',
  hostname: 'a host name (letters, digits, dots, dashes, underscores)',
  uid: 'a user id',
};

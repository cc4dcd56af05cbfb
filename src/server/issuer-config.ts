import { z } from 'zod';
import { iniValues } from '../ini.ts';

const { text, seconds, list, boolean } = iniValues;

/** Signatures that an issuer may be allowed: with public keys all of them. `none` and keyed hashes cannot be configured. */
const algorithms = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA'] as const;

/** The exact text of the claim `iss`: a final slash counts. @see OpenID Connect Discovery 1.0, 4 */
const issuerUrl = text.refine((value) => {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  return url?.protocol === 'https:' && url.search === '' && url.hash === '' && url.username === '';
}, 'an https URL, exactly as the tokens of the issuer have it');

const ids = list.refine(
  (value) => value.every((id) => /^[0-9]{1,19}$/.test(id)),
  'ids, which are numbers: names can change hands',
);

/** `claim=value`, or `claim=one|another`. */
const requirements = list
  .refine((value) => value.every((rule) => /^[^=\s]+=[^=]+$/.test(rule)), 'rules such as email_verified=true or hd=example.org')
  .transform((value) => value.map(pair).map(([claim, values]) => ({ claim, values: values.split('|') })));

/** `theirs=ours`. */
const groupMap = list
  .refine((value) => value.every((rule) => /^[^=]+=[a-z0-9][a-z0-9._@-]{0,62}$/.test(rule)), 'theirs=ours, ours in lower case')
  .transform((value) => value.map(pair).map(([theirs, ours]) => ({ theirs, ours })));

/**
 * Section `[issuer <alias>]`: an OpenID Connect issuer whose tokens clients may log in with, and which of its tokens.
 *
 * @see docker/server/hpcs-server.conf.example, which explains each key
 */
export const issuerSection = z
  .strictObject({
    url: issuerUrl,
    kind: z.enum(['people', 'github', 'gitlab', 'generic'], { error: 'people, github, gitlab or generic' }),
    audience: text,
    'ca-file': text.optional(),
    scope: text.default('openid'),
    algorithms: list
      .pipe(z.array(z.enum(algorithms), { error: `some of ${algorithms.join(', ')}` }))
      .prefault('RS256, PS256, ES256, EdDSA'),
    binding: z.enum(['nonce', 'audience', 'none'], { error: 'nonce, audience or none' }).optional(),
    session: seconds(300, 7 * 86_400).optional(),
    leeway: seconds(0, 300).default(30),
    require: requirements.prefault(''),
    'groups-claim': text.optional(),
    groups: groupMap.prefault(''),
    repositories: ids.prefault(''),
    owners: ids.prefault(''),
    projects: ids.prefault(''),
    refs: list.prefault(''),
    events: list.prefault(''),
    'allow-pull-requests': boolean.prefault('false'),
  })
  .superRefine((section, context) => {
    const expected = (key: keyof typeof section, message: string): void =>
      context.addIssue({ code: 'custom', path: [key], message });
    const { kind } = section;
    const wanted = { github: section.repositories.length + section.owners.length, gitlab: section.projects.length };
    // Anybody can have a project there: without such a rule anybody would be a client.
    if (kind === 'github' && wanted.github === 0)
      expected('repositories', 'the ids of repositories, or owners with ids of their owners');
    if (kind === 'gitlab' && wanted.gitlab === 0) expected('projects', 'the ids of projects');
    if (kind !== 'github' && wanted.github > 0) expected(section.owners.length > 0 ? 'owners' : 'repositories', 'kind = github');
    if (kind !== 'gitlab' && wanted.gitlab > 0) expected('projects', 'kind = gitlab');
    if (kind !== 'github' && kind !== 'gitlab' && section.refs.length + section.events.length > 0)
      expected(section.refs.length > 0 ? 'refs' : 'events', 'kind = github or gitlab');
    if (section.groups.length > 0 && section['groups-claim'] === undefined)
      expected('groups-claim', 'the claim that holds groups, where groups is set');
  });

/** A trusted issuer, with the name that the configuration gives it. */
export type Issuer = z.output<typeof issuerSection> & { readonly alias: string };

/** How a token is tied to the key that it is shown with. @see docs/identity.md, "Logging in" */
export function bindingOf({ binding, kind }: Issuer): 'nonce' | 'audience' | 'none' {
  return binding ?? (kind === 'github' ? 'audience' : 'none');
}

/** Seconds from a login after which the key that came with it counts no more. */
export function sessionOf({ session, kind }: Issuer): number {
  return session ?? (kind === 'people' ? 12 * 3600 : 3600);
}

/** Where a section's name is that of an issuer, its alias. */
export function aliasOf(section: string): string | undefined {
  return /^issuer ([a-z0-9][a-z0-9-]{0,30})$/.exec(section)?.[1];
}

function pair(rule: string): [string, string] {
  const at = rule.indexOf('=');
  return [rule.slice(0, at).trim(), rule.slice(at + 1).trim()];
}

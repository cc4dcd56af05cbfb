import type { JWTPayload } from 'jose';
import { HpcsError } from '../errors.ts';
import type { Issuer } from './issuer-config.ts';

/** Whom a token is for, by claims that never change hands. */
export interface Principal {
  /** Kind, issuer and immutable claim: the same for ever. */
  identity: string;
  /** `oidc:<alias>:<subject>`: what grants name. No enrolled name holds a colon. */
  name: string;
  /** Groups of ours, of those that the configuration maps. */
  groups: string[];
}

/** Runs that are of what stands in the repository itself, started by who may write to it. */
const defaultEvents: Readonly<Record<'github' | 'gitlab', readonly string[]>> = {
  github: ['push', 'schedule', 'workflow_dispatch', 'release'],
  gitlab: ['push', 'schedule', 'web', 'api', 'trigger'],
};

/**
 * Judges the claims of a token that was verified.
 *
 * @throws HpcsError `identity` with code `forbidden`, naming the claim that the rules do not allow
 * @see GitHub: OpenID Connect reference, "Understanding the OIDC token"; GitLab: ID token payload
 */
export function principalOf(issuer: Issuer, claims: JWTPayload): Principal {
  for (const { claim, values } of issuer.require) {
    if (!valuesOf(claims[claim]).some((value) => values.includes(value))) throw forbidden(issuer, claim, claims[claim]);
  }
  const subject = { people: bySub, generic: bySub, github: byRepository, gitlab: byProject }[issuer.kind](issuer, claims);
  const theirs = issuer['groups-claim'] === undefined ? [] : valuesOf(claims[issuer['groups-claim']]);
  const groups = issuer.groups.filter((rule) => theirs.includes(rule.theirs)).map(({ ours }) => ours);
  return {
    identity: identityOf(issuer, subject),
    name: `oidc:${issuer.alias}:${subject}`,
    groups: [...new Set(groups)].toSorted(),
  };
}

/** The identity that a name `oidc:<alias>:<subject>` stands for, or undefined for any other name. */
export function namedIdentity(issuers: readonly Issuer[], name: string): string | undefined {
  const [, alias, subject] = /^oidc:([a-z0-9-]+):(.+)$/.exec(name) ?? [];
  const issuer = issuers.find((one) => one.alias === alias);
  return issuer === undefined || subject === undefined ? undefined : identityOf(issuer, subject);
}

function identityOf(issuer: Issuer, subject: string): string {
  return `oidc-${issuer.kind} ${issuer.url} ${subject}`;
}

function bySub(issuer: Issuer, { sub }: JWTPayload): string {
  if (sub === undefined || !/^\P{Cc}{1,255}$/u.test(sub)) throw forbidden(issuer, 'sub', sub);
  return sub;
}

// A repository keeps its id when it is renamed or moved, and one that is made anew under an old name has another.
function byRepository(issuer: Issuer, claims: JWTPayload): string {
  const repository = id(issuer, claims, 'repository_id', issuer.repositories);
  const owner = id(issuer, claims, 'repository_owner_id', issuer.owners);
  checkRun(issuer, claims, { event: 'event_name', ref: 'ref', pullEvents: ['pull_request', 'merge_group'], pullRef: /^refs\/(pull|heads\/gh-readonly-queue)\// }); // prettier-ignore
  return `${owner}/${repository}`;
}

function byProject(issuer: Issuer, claims: JWTPayload): string {
  const project = id(issuer, claims, 'project_id', issuer.projects);
  checkRun(issuer, claims, { event: 'pipeline_source', ref: 'ref_path', pullEvents: ['merge_request_event', 'external_pull_request_event'], pullRef: /^refs\/merge-requests\// }); // prettier-ignore
  return project;
}

function id(issuer: Issuer, claims: JWTPayload, claim: string, allowed: readonly string[]): string {
  const [value = ''] = valuesOf(claims[claim]);
  if (!/^[0-9]{1,19}$/.test(value) || (allowed.length > 0 && !allowed.includes(value)))
    throw forbidden(issuer, claim, claims[claim]);
  return value;
}

/** What tells runs of proposed changes, which anybody may make, from those of what was accepted. */
interface RunClaims {
  event: string;
  ref: string;
  pullEvents: readonly string[];
  pullRef: RegExp;
}

function checkRun(issuer: Issuer, claims: JWTPayload, { event, ref, pullEvents, pullRef }: RunClaims): void {
  const [source = ''] = valuesOf(claims[event]);
  const [path = ''] = valuesOf(claims[ref]);
  if (issuer['allow-pull-requests'] && pullEvents.includes(source)) return;
  const events = issuer.events.length > 0 ? issuer.events : defaultEvents[issuer.kind === 'github' ? 'github' : 'gitlab'];
  if (!events.includes(source)) throw forbidden(issuer, event, claims[event]);
  if (!/^refs\/(heads|tags)\//.test(path) || pullRef.test(path)) throw forbidden(issuer, ref, claims[ref]);
  if (issuer.refs.length === 0) {
    // Whoever may push to any branch could otherwise be the project.
    if (!valuesOf(claims['ref_protected']).includes('true')) throw forbidden(issuer, 'ref_protected', claims['ref_protected']);
  } else if (!issuer.refs.some((allowed) => fits(path, allowed))) throw forbidden(issuer, ref, claims[ref]);
}

function fits(ref: string, allowed: string): boolean {
  return allowed.endsWith('*') ? ref.startsWith(allowed.slice(0, -1)) : ref === allowed;
}

/** A claim's values as text; none where it is missing or an object. */
function valuesOf(claim: unknown): string[] {
  return [claim].flat().filter((value) => ['string', 'number', 'boolean'].includes(typeof value)).map(String); // prettier-ignore
}

function forbidden(issuer: Issuer, claim: string, value: unknown): HpcsError {
  const shown = value === undefined ? 'missing' : JSON.stringify(value).slice(0, 100);
  return new HpcsError(
    'identity',
    'forbidden',
    `the rules for the issuer ${issuer.alias} do not allow this token: ${claim} is ${shown}`,
  );
}

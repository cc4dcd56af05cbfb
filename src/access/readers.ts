import { HpcsError } from '../errors.ts';
import type { AccessMode, Readers } from '../grant.ts';

/** Readers from comma-separated flags. @throws HpcsError `usage` for what is no name */
export function readersOf(flags: {
  users?: string | undefined;
  groups?: string | undefined;
  'compute-nodes'?: string | undefined;
}): Readers {
  const readers = { users: list(flags.users), groups: list(flags.groups), nodes: list(flags['compute-nodes']) };
  for (const name of [...readers.users, ...readers.groups, ...readers.nodes]) {
    if (/^[A-Za-z0-9_][A-Za-z0-9._@-]*$/.test(name)) continue;
    if (readers.users.includes(name) && /^oidc:[a-z0-9-]+:[\x21-\x2b\x2d-\x7e]+$/.test(name)) continue;
    throw new HpcsError('usage', 'bad-name', `${JSON.stringify(name)} is not a name of a user, group or node`, {
      suggestion: 'separate names with commas',
    });
  }
  return readers;
}

function list(value: string | undefined): string[] {
  return (value ?? '')
    .split(',')
    .map((part) => part.trim())
    .filter(Boolean);
}

/** @throws HpcsError `usage` when nobody could read the artefact: in job mode its owner always can */
export function checkReaders(readers: Readers, mode: AccessMode): void {
  if (mode === 'job') return;
  if (readers.users.length + readers.groups.length === 0) {
    throw new HpcsError('usage', 'no-readers', 'nobody is named who may read the artefact', {
      suggestion: 'name users with -u or groups with -g',
    });
  }
  if (readers.nodes.length === 0) {
    throw new HpcsError('usage', 'no-nodes', 'no compute node is named on which the artefact may be read', {
      suggestion: 'name nodes with -c',
    });
  }
}

/** Who may read an artefact, in words. */
export function describeReaders(readers: Readers, mode: AccessMode): string {
  const user = mode === 'job' ? 'client' : 'user';
  const who = [...readers.users.map((name) => `${user} ${name}`), ...readers.groups.map((name) => `group ${name}`)];
  if (mode === 'job') return `jobs of ${['this client', ...who].join(', ')}`;
  return `${who.join(', ')} on ${readers.nodes.join(', ')}`;
}

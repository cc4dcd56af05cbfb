import { firstError, HpcsError, systemCode } from '../errors.ts';

/** Where there is no room, in the words of the system. */
const full = new Set(['ENOSPC', 'EDQUOT', 'disk-full']);

/**
 * An error as the job's log may hold it. The names of confidential files are as confidential as their contents, messages and stacks of
 * what handles such files hold them, and the log lies on the site in plain: what stays is the code.
 *
 * @param doing what failed, for the message
 */
export function nameless(doing: string, thrown: unknown): HpcsError {
  const error = firstError(thrown);
  // Those of sealed data name nothing in it; those of the archive within name its entries.
  if (error instanceof HpcsError && error.kind === 'integrity' && !error.code.startsWith('archive-')) return error;
  const code = error instanceof HpcsError ? error.code : systemCode(error);
  if (code !== undefined && full.has(code)) {
    return new HpcsError('site', 'node-disk-full', `${doing}: no space left on the node, or for what it writes on the site`, {
      suggestion: 'free space there, or name a larger directory: node-scratch in the configuration, or --workdir',
    });
  }
  // A number of the system names nothing, and tells a full quota from a lost disk.
  const reason = (error instanceof HpcsError ? systemCode(error.cause) : undefined) ?? code;
  const kind = error instanceof HpcsError ? error.kind : code === undefined ? 'bug' : 'site';
  return new HpcsError(
    kind === 'local' ? 'site' : kind,
    error instanceof HpcsError ? error.code : kind === 'bug' ? 'bug' : 'node-failed',
    `${doing} failed: ${reason ?? (error instanceof Error ? error.name : 'unknown error')}`,
    { suggestion: 'no name of a confidential file is told where the site can read it' },
  );
}

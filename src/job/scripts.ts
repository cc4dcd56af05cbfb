import { HpcsError } from '../errors.ts';
import { collect } from '../site/files.ts';
import { assignments } from '../shell.ts';
import type { Transport } from '../site/transport.ts';
import { isRun } from '../node/scripts.ts';
import type { PinnedScripts } from './plan.ts';

// NUL-terminated lines: a file name may hold a line break, and `sha256sum -z` escapes nothing. Links are followed, since a script
// that is a link would else be left out in silence; what cannot be read or followed is an error for the same reason.
const listing = `
LC_ALL=C
export LC_ALL
cd -- "$directory" || exit 66
[ -z "$(find . -type l ! -exec test -e {} \\; -print)" ] || { echo 'it holds a link that leads nowhere' >&2; exit 65; }
exec find -L . -type f -exec sha256sum -z -- {} +
`;

/**
 * Pins the files of a supplementary script directory on the site by their digests as they are now.
 *
 * @throws HpcsError `site` when the directory is not there, `usage` when it holds no script
 */
export async function pinScripts(
  transport: Transport,
  directory: string,
  what: 'input' | 'output',
  signal: AbortSignal,
): Promise<PinnedScripts> {
  const suggestion = `correct --supplementary-${what}-scripts`;
  if (!directory.startsWith('/')) {
    throw new HpcsError('usage', 'bad-path', `the ${what} script directory ${directory} is not an absolute path on the site`, {
      suggestion: `${suggestion}; a directory of this machine is written as local:${directory}`,
    });
  }
  const process = transport.exec(assignments({ directory }) + listing, { signal });
  const listed = await collect(process.stdout);
  const exit = await process.finished;
  const unreadable = (why: string): HpcsError =>
    new HpcsError('site', 'scripts-unreadable', `the ${what} script directory ${directory} cannot be read on the site: ${why}`, {
      suggestion,
    });
  if (exit.code !== 0) throw unreadable(exit.stderr.trim());
  const files = parseListing(listed);
  if (files === undefined) throw unreadable('a file in it has a name that is not UTF-8, or the site lists it in an unknown form');
  if (!files.some((file) => isRun(file.path))) throw noScripts(what, directory);
  return { directory, files };
}

/** The error for a directory in which there is nothing to run. */
export function noScripts(what: 'input' | 'output', directory: string): HpcsError {
  return new HpcsError('usage', 'no-scripts', `the ${what} script directory ${directory} holds no *.sh`, {
    suggestion: `leave --supplementary-${what}-scripts out if nothing is to be run`,
  });
}

function parseListing(listed: Uint8Array): PinnedScripts['files'] | undefined {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(listed);
  } catch {
    return undefined;
  }
  const files: PinnedScripts['files'] = [];
  for (const line of text.split('\0').slice(0, -1)) {
    const [, sha256, path] = /^([0-9a-f]{64}) [ *]\.\/(.+)$/su.exec(line) ?? [];
    if (sha256 === undefined || path === undefined || path.split('/').some((part) => ['', '.', '..'].includes(part)))
      return undefined;
    files.push({ sha256, path });
  }
  return files.toSorted((a, b) => (a.path < b.path ? -1 : 1));
}

import { HpcsError } from '../errors.ts';
import { collect } from '../site/files.ts';
import { assignments } from '../shell.ts';
import type { Transport } from '../site/transport.ts';
import type { PlannedScripts } from './plan.ts';

// NUL-terminated lines: a file name may hold a line break. `sha256sum -z` escapes nothing.
const listing = `
cd -- "$directory" || exit 66
find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum -z --
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
): Promise<PlannedScripts> {
  const process = transport.exec(assignments({ directory }) + listing, { signal });
  const text = Buffer.from(await collect(process.stdout)).toString('utf8');
  const exit = await process.finished;
  if (exit.code !== 0) {
    throw new HpcsError(
      'site',
      'scripts-unreadable',
      `the ${what} script directory ${directory} cannot be read on the site: ${exit.stderr.trim()}`,
      {
        suggestion: `correct --supplementary-${what}-scripts`,
      },
    );
  }
  const files = text
    .split('\0')
    .filter(Boolean)
    .map((line) => ({ sha256: line.slice(0, 64), path: line.slice(66).replace(/^\.\//, '') }));
  if (!files.some((file) => file.path.endsWith('.sh'))) {
    throw new HpcsError('usage', 'no-scripts', `the ${what} script directory ${directory} holds no *.sh`, {
      suggestion: `leave --supplementary-${what}-scripts out if nothing is to be run`,
    });
  }
  return { directory, files };
}

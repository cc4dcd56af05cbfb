import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HpcsError, systemCode } from './errors.ts';

/**
 * Makes a directory of one's own for as long as something runs, for nobody else: mkdtemp(3) gives it mode 0700.
 *
 * @param parent default: where TMPDIR says, else `/tmp`
 * @returns its path; whoever made it removes it
 * @throws HpcsError `local`, code `no-temporary-directory`
 */
export async function temporaryDirectory(prefix: string, parent: string = tmpdir()): Promise<string> {
  try {
    return await mkdtemp(join(parent, prefix));
  } catch (error) {
    throw new HpcsError(
      'local',
      'no-temporary-directory',
      `cannot make a directory in ${parent}: ${systemCode(error) ?? 'unknown error'}`,
      { cause: error, suggestion: 'let TMPDIR name a directory that you may write to' },
    );
  }
}

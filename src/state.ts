import { existsSync } from 'node:fs';
import { chmod, mkdir, open, rename, stat, statfs } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Config } from './config.ts';
import { HpcsError, systemCode } from './errors.ts';

/**
 * The one durable private directory of a client: the keys of jobs and the catalogue of artefacts. The same for all stages, so
 * that results can be opened from a new container: `HPCS_STATE_DIR`, the configuration's `state-directory`, or XDG's.
 *
 * @returns its path; it exists with mode 0700
 * @see XDG Base Directory Specification, XDG_STATE_HOME
 */
export async function stateDirectory(
  config: Pick<Config, 'client'> | undefined,
  env: NodeJS.ProcessEnv = process.env,
): Promise<string> {
  const xdg = env['XDG_STATE_HOME'] || join(env['HOME'] || homedir(), '.local', 'state');
  const directory = env['HPCS_STATE_DIR'] || config?.client['state-directory'] || join(xdg, 'hpcs');
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await chmod(directory, 0o700);
  } catch (error) {
    throw new HpcsError(
      'local',
      'state-unwritable',
      `cannot use the state directory ${directory}: ${systemCode(error) ?? 'unknown error'}`,
      {
        cause: error,
        suggestion: 'set HPCS_STATE_DIR to a durable directory of your own',
      },
    );
  }
  return directory;
}

// Magic numbers of overlayfs and of FUSE, upon one of which container engines build a container's root: linux/magic.h.
const overlays = new Set([0x794c7630, 0x65735546]);

/**
 * Refuses a state directory that dies with a container: in the container's own layer, which `docker compose run --rm` removes.
 *
 * @throws HpcsError `local` `state-not-durable`
 */
export async function assertDurable(directory: string): Promise<void> {
  const contained = existsSync('/.dockerenv') || existsSync('/run/.containerenv');
  if (!contained || !overlays.has((await statfs('/')).type) || (await stat(directory)).dev !== (await stat('/')).dev) return;
  throw new HpcsError(
    'local',
    'state-not-durable',
    `the state directory ${directory} would be lost with this container, and the keys of results with it`,
    {
      suggestion: 'mount a directory of yours there, or set HPCS_STATE_DIR to a path on a mounted one',
    },
  );
}

/**
 * Writes a file of mode 0600 so that it is either the old or the new one, whole and on disk, when this returns.
 *
 * @throws HpcsError `local` when it cannot be written
 */
export async function writeDurably(file: string, content: string | Uint8Array): Promise<void> {
  const temporary = `${file}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await mkdir(dirname(file), { recursive: true, mode: 0o700 });
    {
      await using handle = await open(temporary, 'wx', 0o600);
      await handle.writeFile(content);
      await handle.sync();
    }
    await rename(temporary, file);
    await using directory = await open(dirname(file), 'r');
    await directory.sync();
  } catch (error) {
    throw new HpcsError('local', 'write-failed', `cannot write ${file}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
    });
  }
}

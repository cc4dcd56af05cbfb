import { constants, type Stats } from 'node:fs';
import { access, open, readFile, readdir, rename, rm, stat, statfs } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { dirname, join, resolve } from 'node:path';
import type { z } from 'zod';
import type { Config } from './config.ts';
import { HpcsError, systemCode } from './errors.ts';
import { expandHome, homeOf } from './home.ts';
import { makeDirectories } from './make-directories.ts';
import { isContained, isOthers } from './file-owner.ts';

/**
 * The one durable private directory of a client: the keys of jobs and the catalogue of artefacts. The same for all stages, so
 * that results can be opened from a new container: `HPCS_STATE_DIR`, the configuration's `state-directory`, or XDG's.
 *
 * @returns its absolute path; it exists, with mode 0700 where it had to be made
 * @throws HpcsError `local` where it cannot be made, or where others could put files into it
 * @see XDG Base Directory Specification, XDG_STATE_HOME
 */
export async function stateDirectory(
  config: Pick<Config, 'client'> | undefined,
  env: NodeJS.ProcessEnv = process.env,
): Promise<string> {
  const xdg = env['XDG_STATE_HOME'] || join(homeOf(env), '.local', 'state');
  const directory = resolve(
    expandHome(env['HPCS_STATE_DIR'] ?? '', env) || config?.client['state-directory'] || join(xdg, 'hpcs'),
  );
  const suggestion = 'set HPCS_STATE_DIR to a durable directory of your own';
  let found: Stats;
  try {
    await makeDirectories(directory, 0o700);
    found = await stat(directory);
    await access(directory, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new HpcsError(
      'local',
      'state-unwritable',
      `cannot use the state directory ${directory}: ${systemCode(error) ?? 'unknown error'}`,
      { cause: error, suggestion },
    );
  }
  // One that was there before keeps its mode: it may be somebody's home, or /tmp.
  if (isOthers(found)) {
    const [fact, step] =
      (found.mode & 0o022) === 0
        ? ['belongs to somebody else', suggestion]
        : ['can be written to by others', `take that right away (chmod go-w), or ${suggestion}`];
    throw new HpcsError('local', 'state-shared', `the state directory ${directory} ${fact}`, { suggestion: step });
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
  if (!isContained() || !overlays.has((await statfs('/')).type) || (await stat(directory)).dev !== (await stat('/')).dev) return;
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
    await makeDirectories(dirname(file), 0o700);
    {
      await using handle = await open(temporary, 'wx', 0o600);
      await handle.writeFile(content);
      await handle.sync();
    }
    await rename(temporary, file);
    await syncDirectory(dirname(file));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw new HpcsError('local', 'write-failed', `cannot write ${file}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
      suggestion: 'make room there, or make it writable',
    });
  }
}

// Some file systems that are shared into containers know no fsync of directories.
async function syncDirectory(directory: string): Promise<void> {
  await using handle = await open(directory, 'r');
  await handle.sync().catch((error: unknown) => {
    if (systemCode(error) !== 'EINVAL' && systemCode(error) !== 'ENOTSUP') throw error;
  });
}

/**
 * Reads every JSON record of a directory that fits a schema. Files that another process writes or removes meanwhile are no error,
 * nor are records of other versions.
 *
 * @throws HpcsError `local` naming a file that cannot be read or holds no JSON
 */
export async function readRecords<Schema extends z.ZodType>(directory: string, schema: Schema): Promise<z.output<Schema>[]> {
  const names = await readIfThere(directory, () => readdir(directory));
  const records: z.output<Schema>[] = [];
  for (const name of names?.filter((candidate) => candidate.endsWith('.json')) ?? []) {
    const file = join(directory, name);
    const content = await readIfThere(file, () => readFile(file, 'utf8'));
    const parsed = schema.safeParse(content === undefined ? undefined : parseJson(content, file));
    if (parsed.success) records.push(parsed.data);
  }
  return records;
}

async function readIfThere<Content>(path: string, read: () => Promise<Content>): Promise<Content | undefined> {
  try {
    return await read();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw new HpcsError('local', 'state-unreadable', `cannot read ${path}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
      suggestion: 'make it readable; it must belong to the user who runs hpcs',
    });
  }
}

function parseJson(content: string, file: string): unknown {
  try {
    return JSON.parse(content);
  } catch {
    // The parser's message would quote what it could not parse, which may be a key.
    throw new HpcsError('local', 'state-unreadable', `${file} is damaged: it holds no JSON`, {
      suggestion: 'move it away; what it held is lost',
    });
  }
}

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, realpath } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { HpcsError, systemCode } from '../errors.ts';
import { isRun, scriptsName } from '../node/scripts.ts';
import { pack } from '../pack/pack.ts';
import type { SealFormat } from '../seal/format.ts';
import { generateKey, type ArtefactKey } from '../seal/keys.ts';
import { seal } from '../seal/seal.ts';
import type { Secret } from '../secret.ts';
import { makeDirectory, remove } from '../site/files.ts';
import type { Transport } from '../site/transport.ts';
import { uploadFile } from '../site/upload.ts';
import type { PinnedScripts, PlannedScripts } from './plan.ts';
import { noScripts, pinScripts } from './scripts.ts';

/** What both kinds of script directory need. */
interface ScriptContext {
  transport: Transport;
  signal: AbortSignal;
  progress: (line: string) => void;
}

/** Scripts of one kind as they were asked for: pinned on the site, or a directory of this machine. */
export type ChosenScripts = PinnedScripts | { local: string } | null;

/**
 * Looks at the scripts of one kind, and lists each of them to the user.
 *
 * @param named a directory on the site, or `local:DIR` for one of this machine
 * @throws HpcsError `usage`, `site` or `local` for a directory that cannot be used
 */
export async function chooseScripts(
  named: string | undefined,
  what: 'input' | 'output',
  { transport, signal, progress }: ScriptContext,
): Promise<ChosenScripts> {
  if (named === undefined) return null;
  const list = (files: readonly ListedScript[]): void => {
    for (const { path, sha256 } of files) progress(`${what} script ${path} sha256:${sha256}`);
  };
  if (!named.startsWith('local:')) {
    const pinned = await pinScripts(transport, named, what, signal);
    list(pinned.files);
    return pinned;
  }
  const local = named.slice('local:'.length);
  list(await listLocalScripts(local, what));
  return { local };
}

/** Scripts as the job's plan names them. */
export interface ShippedScripts {
  planned: Record<'input' | 'output', PlannedScripts | null>;
  /** Opens what was sealed, if anything was. */
  scriptsKey: Secret | undefined;
}

/**
 * Seals what lies on this machine, all to one key of this job alone, and ships it.
 *
 * @param place where on the site it goes: a directory, and the beginning of a file name that no other job has
 * @param unsubmitted removes it again, for a job that is not submitted after all
 */
export async function shipScripts(
  scripts: Record<'input' | 'output', ChosenScripts>,
  place: { directory: string; name: string; format: SealFormat },
  unsubmitted: AsyncDisposableStack,
  { transport, signal, progress }: ScriptContext,
): Promise<ShippedScripts> {
  const planned: ShippedScripts['planned'] = { input: null, output: null };
  let key: ArtefactKey | undefined;
  for (const what of ['input', 'output'] as const) {
    const chosen = scripts[what];
    if (chosen === null || !('local' in chosen)) {
      planned[what] = chosen;
      continue;
    }
    progress(`sealing and shipping the ${what} scripts of ${chosen.local}`);
    key ??= await generateKey(place.format);
    const path = `${place.directory}/${place.name}.${what}-scripts`;
    const content = pack(await realpath(chosen.local), { name: scriptsName, signal });
    const sealed = seal(content, { format: place.format, recipients: [key.publicKey], signal });
    await makeDirectory(transport, place.directory, { signal });
    unsubmitted.defer(() => remove(transport, path));
    await uploadFile(transport, sealed.bytes, path, { mode: 0o600, signal });
    planned[what] = { sealed: path, sha512: (await sealed.summary).sha512 };
  }
  return { planned, scriptsKey: key?.secretKey };
}

/** A script as it is told to the user. */
interface ListedScript {
  path: string;
  sha256: string;
}

/**
 * Looks at a local directory of supplementary scripts.
 *
 * @returns its files, in order of name
 * @throws HpcsError `local` for what cannot be read and for a link, which would lead elsewhere in the container; `usage` when it holds
 * no script
 */
async function listLocalScripts(directory: string, what: 'input' | 'output'): Promise<ListedScript[]> {
  const unreadable = (path: string, why: string, cause?: unknown): HpcsError =>
    new HpcsError('local', 'scripts-unreadable', `the ${what} script directory ${directory} cannot be used: ${path} ${why}`, {
      cause,
      suggestion: `correct --supplementary-${what}-scripts`,
    });
  const files: ListedScript[] = [];
  let at = directory;
  try {
    const root = await realpath(directory);
    for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
      at = join(entry.parentPath, entry.name);
      if (entry.isSymbolicLink()) throw unreadable(at, 'is a link: put what it leads to in its place');
      if (entry.isFile()) files.push({ path: relative(root, at), sha256: await sha256(at) });
    }
  } catch (error) {
    if (error instanceof HpcsError) throw error;
    throw unreadable(at, `cannot be read: ${systemCode(error) ?? 'unknown error'}`, error);
  }
  if (!files.some(({ path }) => isRun(path))) throw noScripts(what, directory);
  return files.toSorted((a, b) => (a.path < b.path ? -1 : 1));
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

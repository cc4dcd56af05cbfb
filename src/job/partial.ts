import { posix } from 'node:path';
import { HpcsError } from '../errors.ts';
import { decryptContent } from '../gocryptfs/content.ts';
import { classifyName, decryptLink, directoryIvFile } from '../gocryptfs/names.ts';
import { VolumeTree } from '../gocryptfs/tree.ts';
import { configurationFile, openVolume, type VolumeKeys } from '../gocryptfs/volume.ts';
import { nameOf } from '../pack/name.ts';
import { readTar, type ReadTarEntry } from '../pack/tar.ts';
import { unpackEntries, type UnpackEntry } from '../pack/unpack.ts';
import { open } from '../seal/open.ts';
import { Secret } from '../secret.ts';
import { assignments } from '../shell.ts';
import { collect, readFile } from '../site/files.ts';
import type { Transport } from '../site/transport.ts';
import { findResults, type FoundResults } from './found.ts';
import { resultFiles } from './manifest.ts';
import type { SubmittedRecord } from './store.ts';
import { TargetDirectory } from './target.ts';
import { parseVolumeKey } from './volume-key.ts';

/**
 * What could be read of the output of a job that had no time to seal it.
 *
 * Every byte was written by the job: the volume's key was only in it and sealed to its owner. But no manifest covers the whole: the
 * site could have removed, exchanged, blanked or rolled back files and blocks.
 */
export interface PartialResults {
  directory: string;
  /** Number of files, those below included. */
  files: number;
  /** Files that the job was writing when it ended: they hold what stood before the place where it stopped. */
  damaged: string[];
  /** Files that hold only what stood before a place that is not the job's, and names and links that are not: those are left out. */
  altered: string[];
  /** What the site could not read, or what changed meanwhile, in its own words. */
  unread: string[];
}

// What names need comes first: so files can be decrypted as they arrive, and nothing is kept here that is not a result.
const archive = `
cd -- "$volume" || exit 66
names() { find . -type f \\( -name "$iv_file" -o -name 'gocryptfs.longname.*.name' \\) -print0; }
things() { find . \\( -type d -o -type f -o -type l \\) ! -name 'gocryptfs.*.name' ! -name "$iv_file" ! -name "$configuration" -print0; }
{ printf '%s\\0' "./$configuration"; names; things; } |
  LC_ALL=C tar --format=gnu --null --no-recursion --hard-dereference --ignore-failed-read -T - -cf -
`;

/** Longest file of the volume's own that is read. */
const longestOwn = 64 * 1024;

/**
 * Fetches and decrypts what a killed job had written, without mounting anything. Memory does not grow with the files, and no
 * ciphertext is kept.
 *
 * @param target directory that is made; must not exist
 * @throws HpcsError `job` where there is nothing partial, `integrity` for a volume that is not the job's or an unsafe archive
 */
export async function openPartialResults(
  transport: Transport,
  job: SubmittedRecord,
  target: string,
  options: { signal: AbortSignal },
): Promise<PartialResults> {
  const { signal } = options;
  const found = await findResults(transport, job, { signal });
  if (found.content !== 'partial') throw notPartial(job.jobId, found);
  using password = await readPassword(transport, job, found, signal);
  const results: PartialResults = { directory: target, files: 0, damaged: [], altered: [], unread: [] };
  await using directory = await TargetDirectory.make(target);
  const stream = fetchVolume(transport, posix.join(found.directory, resultFiles.outputVolume), results, signal);
  await unpackEntries(decryptEntries(readTar(stream), password, results, signal), directory.temporary, { signal });
  await directory.publish();
  return results;
}

/** The password of the output volume, which only the owner can open and only the job can have made. */
async function readPassword(
  transport: Transport,
  job: SubmittedRecord,
  found: FoundResults,
  signal: AbortSignal,
): Promise<Secret> {
  const sealed = await readFile(transport, posix.join(found.directory, resultFiles.outputVolumeKey), {
    maxBytes: longestOwn,
    signal,
  });
  using content = new Secret(await collect(open(once(sealed), job.resultKey, { signal, checkedAtEnd: true }), longestOwn));
  return parseVolumeKey(content, { id: job.jobId, restart: found.restart }, job.authenticationKey);
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  yield bytes;
}

/** A tar stream of the volume: its configuration, what names need, and then everything else. */
async function* fetchVolume(
  transport: Transport,
  volume: string,
  results: PartialResults,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  const values = { volume, configuration: configurationFile, iv_file: directoryIvFile };
  await using process = transport.exec(assignments(values) + archive, { signal });
  yield* process.stdout;
  const { code, stderr } = await process.finished;
  const said = stderr.split('\n').filter(Boolean);
  // tar ends with 1 when a file changed while it was read, as those of a running job do.
  if (code !== 0 && code !== 1) {
    throw new HpcsError(
      'site',
      'volume-unreadable',
      `the output volume ${volume} cannot be read on the site: ${said.at(-1) ?? `exit code ${code}`}`,
      { suggestion: 'check on the site that you can read it, and that tar is there, then try again' },
    );
  }
  results.unread.push(...said);
}

/** The entries of the volume as the job saw them. */
async function* decryptEntries(
  entries: AsyncIterable<ReadTarEntry>,
  password: Secret,
  results: PartialResults,
  signal: AbortSignal,
): AsyncGenerator<UnpackEntry, void, undefined> {
  let volume: { keys: VolumeKeys; tree: VolumeTree } | undefined;
  using stack = new DisposableStack();
  for await (const entry of entries) {
    const path = entry.name.replace(/^(\.\/)+/, '').replace(/\/+$/, '');
    if (volume === undefined) {
      if (path !== configurationFile) throw noConfiguration();
      const keys = stack.use(openVolume(Buffer.from(await collect(entry.body, longestOwn)).toString('utf8'), password));
      volume = { keys, tree: new VolumeTree(keys) };
      continue;
    }
    if (path === '' || path === '.') continue;
    const { keys, tree } = volume;
    const name = posix.basename(path);
    const { kind } = classifyName(name);
    if (name === directoryIvFile) tree.addDirectoryIv(parent(path), await collect(entry.body, longestOwn));
    else if (kind === 'name-file') tree.addLongName(path, await collect(entry.body, longestOwn));
    else if (kind !== 'own') {
      const plain = decryptEntry(entry, path, keys, tree, results, signal);
      if (plain === undefined) {
        tree.keep(path);
        results.altered.push(`${path} (encrypted name)`);
      } else yield plain;
    }
  }
  if (volume === undefined) throw noConfiguration();
}

/** One entry as the job saw it, or undefined when its name or its link's target is not the job's. */
function decryptEntry(
  entry: ReadTarEntry,
  path: string,
  keys: VolumeKeys,
  tree: VolumeTree,
  results: PartialResults,
  signal: AbortSignal,
): UnpackEntry | undefined {
  const { type, mode, mtime, size, linkname } = entry;
  try {
    const name = nameOf(type === 'directory' ? tree.resolveDirectory(path) : tree.resolve(path));
    const plain = { name, type, mode, mtime, size, linkname, body: entry.body };
    if (type === 'symlink') return { ...plain, linkname: nameOf(decryptLink(keys, linkname)) };
    if (type !== 'file') return plain;
    results.files += 1;
    return { ...plain, body: decryptFile(entry, name, { keys, tree }, results, signal) };
  } catch (error) {
    if (error instanceof HpcsError && error.kind === 'integrity') return undefined;
    throw error;
  }
}

async function* decryptFile(
  entry: ReadTarEntry,
  name: string,
  { keys, tree }: { keys: VolumeKeys; tree: VolumeTree },
  results: PartialResults,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  const note = (list: string[]): void => {
    tree.keep(name);
    list.push(name);
  };
  try {
    yield* decryptContent(keys, entry.body, { onCut: () => note(results.damaged), signal });
  } catch (error) {
    if (!(error instanceof HpcsError) || error.code !== 'file-altered') throw error;
    note(results.altered);
  }
}

function parent(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash < 0 ? '' : path.slice(0, slash);
}

function noConfiguration(): HpcsError {
  return new HpcsError('integrity', 'volume-invalid', `the output volume has no ${configurationFile}`, {
    suggestion: 'it was removed on the site; nothing of this volume can be read without it',
  });
}

function notPartial(jobId: string, found: FoundResults): HpcsError {
  if (found.content === 'whole') {
    return new HpcsError('usage', 'results-whole', `the results of job ${jobId} are whole, there is nothing partial`, {
      suggestion: `leave --partial out: hpcs job results ${jobId}`,
    });
  }
  return new HpcsError('job', 'no-partial-results', `job ${jobId} has left nothing in ${found.directory}`, {
    suggestion:
      'it has not started its application, or output scripts are set, without which nothing leaves the job: see its log',
  });
}

import { randomBytes } from 'node:crypto';
import { posix } from 'node:path';
import { HpcsError } from '../errors.ts';
import { assignments } from '../shell.ts';
import type { ExecOptions, RemoteExit, Transport } from './transport.ts';

/** Options that every function here takes. */
export interface FileOptions {
  signal?: AbortSignal | undefined;
}

/** What {@link stat} tells, links followed. */
export interface FileStat {
  /** In bytes. */
  size: number;
  /** Permission bits, for example 0o640. */
  mode: number;
  type: 'file' | 'directory' | 'other';
}

/** What shell text begins with: messages are told apart by their words, which only the C locale keeps fixed. */
export const preamble = 'LC_ALL=C\nexport LC_ALL\n';

/** A path that no program takes for an option, as one that starts with a dash would be by those that know no `--`. */
export function plain(path: string): string {
  return path.startsWith('-') ? `./${path}` : path;
}

/** All bytes of a stream, up to a limit. @throws HpcsError `site` when there are more */
export async function collect(stream: AsyncIterable<Uint8Array>, maxBytes = 64 * 1024 * 1024): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of stream) {
    size += part.length;
    if (size > maxBytes)
      throw new HpcsError('site', 'answer-too-long', `the site answered with more than ${maxBytes} bytes`, {
        suggestion: 'that is not what was asked for: try again, and tell the site if it stays so',
      });
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** Runs shell text and collects its output. @throws HpcsError `site` when the connection breaks */
export async function run(
  transport: Transport,
  script: string,
  options: ExecOptions = {},
): Promise<RemoteExit & { stdout: string }> {
  const process = transport.exec(script, options);
  const stdout = Buffer.from(await collect(process.stdout)).toString('utf8');
  return { ...(await process.finished), stdout };
}

async function runFixed(
  transport: Transport,
  what: string,
  path: string,
  values: Readonly<Record<string, string>>,
  body: string,
  options: FileOptions,
): Promise<string> {
  const { code, stderr, stdout } = await run(transport, preamble + assignments(values) + body, { signal: options.signal });
  if (code !== 0) throw fileError(what, path, stderr, code);
  return stdout;
}

/**
 * A small file as a whole.
 *
 * @param options.maxBytes refuse a longer one
 * @throws HpcsError `site` when it is missing, unreadable or too long
 */
export async function readFile(
  transport: Transport,
  path: string,
  options: FileOptions & { maxBytes: number },
): Promise<Uint8Array> {
  const values = { path: plain(path), limit: String(options.maxBytes + 1) };
  const script = `${preamble}${assignments(values)}exec <"$path" || exit 1\n[ ! -d "$path" ] || { echo 'Is a directory' >&2; exit 1; }\nexec head -c "$limit"`;
  const process = transport.exec(script, { signal: options.signal });
  const bytes = await collect(process.stdout);
  const { code, stderr } = await process.finished;
  if (code !== 0) throw fileError('read', path, stderr, code);
  if (bytes.length > options.maxBytes) {
    throw new HpcsError('site', 'site-file-too-long', `${path} on the site is longer than ${options.maxBytes} bytes`, {
      suggestion: 'check that this is the file that was meant',
    });
  }
  return bytes;
}

/** A file's bytes as they come. @throws HpcsError `site` when it cannot be read to its end */
export async function* readStream(
  transport: Transport,
  path: string,
  options: FileOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const script = `${preamble}${assignments({ path: plain(path) })}exec cat -- "$path"`;
  await using process = transport.exec(script, { signal: options.signal });
  yield* process.stdout;
  const { code, stderr } = await process.finished;
  if (code !== 0) throw fileError('read', path, stderr, code);
}

/** Size, mode and type of what a path leads to, or undefined where there is nothing. @throws HpcsError `site` */
export async function stat(transport: Transport, path: string, options: FileOptions = {}): Promise<FileStat | undefined> {
  try {
    const body = `exec stat -L -c '%s %f' -- "$path"`;
    const [size = '', mode = ''] = (await runFixed(transport, 'look at', path, { path: plain(path) }, body, options))
      .trim()
      .split(' ');
    const bits = Number.parseInt(mode, 16);
    const kind = bits & 0o170000;
    return {
      size: Number(size),
      mode: bits & 0o7777,
      type: kind === 0o100000 ? 'file' : kind === 0o040000 ? 'directory' : 'other',
    };
  } catch (error) {
    if (error instanceof HpcsError && error.code === 'site-not-found') return undefined;
    throw error;
  }
}

/** SHA-512 of a file, computed on the site, in hex; undefined where there is no such file. @throws HpcsError `site` */
export function sha512(transport: Transport, path: string, options: FileOptions = {}): Promise<string | undefined> {
  return digest(transport, 'sha512sum', path, options);
}

/** SHA-256 of a file, computed on the site, in hex; undefined where there is no such file. @throws HpcsError `site` */
export function sha256(transport: Transport, path: string, options: FileOptions = {}): Promise<string | undefined> {
  return digest(transport, 'sha256sum', path, options);
}

async function digest(transport: Transport, program: string, path: string, options: FileOptions): Promise<string | undefined> {
  try {
    // From standard input, so that no file name can alter the form of the answer.
    const body = `exec <"$path" || exit 1\nexec ${program}`;
    return (await runFixed(transport, 'read', path, { path: plain(path) }, body, options)).trim().split(' ')[0];
  } catch (error) {
    if (error instanceof HpcsError && error.code === 'site-not-found') return undefined;
    throw error;
  }
}

/**
 * Makes a directory in which files can be made, with its parents, with mode 0700; one that is there already stays as it is.
 *
 * @throws HpcsError `site`
 */
export async function makeDirectory(transport: Transport, path: string, options: FileOptions = {}): Promise<void> {
  await runFixed(
    transport,
    'make the directory',
    path,
    { path: plain(path) },
    `umask 077\nmkdir -p -- "$path" || exit\n[ -w "$path" ] && [ -x "$path" ] && exit\necho 'Permission denied' >&2\nexit 1`,
    options,
  );
}

/** Removes a file; one that is not there is no error. @throws HpcsError `site` */
export async function remove(transport: Transport, path: string, options: FileOptions = {}): Promise<void> {
  await runFixed(transport, 'remove', path, { path: plain(path) }, 'exec rm -f -- "$path"', options);
}

/** A hidden neighbour of a path, with a name that no other upload has. */
export function temporaryName(path: string): string {
  const directory = path.slice(0, path.lastIndexOf('/') + 1);
  // 255 bytes is the longest name that file systems take.
  const name = Buffer.from(posix.basename(path)).subarray(0, 200).toString('utf8').replace(/\uFFFD+$/, ''); // prettier-ignore
  return `${directory}.${name}.${randomBytes(8).toString('hex')}.part`;
}

/** Removes an upload's temporary file, and nothing else. @throws HpcsError `bug` for another file, `site` */
export async function removeTemporary(transport: Transport, path: string, options: FileOptions = {}): Promise<void> {
  requireTemporary(path);
  await remove(transport, path, options);
}

/** To be asked before a temporary file is removed. @throws HpcsError `bug` for the path of another file */
export function requireTemporary(path: string): void {
  if (!/(^|\/)\.[^/]+\.[0-9a-f]{16}\.part$/.test(path))
    throw new HpcsError('bug', 'bug', `${path} is not a temporary file of an upload`);
}

/** A name beside another: with `suffix` before its extension. */
export function beside(path: string, suffix: string): string {
  const { dir, name, ext } = posix.parse(path);
  return posix.join(dir, `${name}-${suffix}${ext}`);
}

/** Something is at the path already. */
export function exists(path: string): HpcsError {
  return new HpcsError('site', 'site-exists', `${path} is already there on the site`, {
    suggestion: 'choose another name, or remove it there',
  });
}

/** Troubles with files, by the words of the C library in the C locale. */
const troubles: ReadonlyArray<[pattern: RegExp, code: string, fact: string, suggestion: string]> = [
  [/No space left on device/, 'site-disk-full', 'no space is left there', 'make room on the site, or choose another directory'],
  [
    /quota exceeded/i,
    'site-quota',
    'the quota is used up',
    'make room on the site, ask for a larger quota, or choose another directory',
  ],
  [/Read-only file system/, 'site-read-only', 'the file system is read-only', 'choose another directory'],
  [
    /Permission denied|Operation not permitted/,
    'site-permission-denied',
    'permission denied',
    'check owner and mode of the path and of its directory',
  ],
  [
    /directory: No such file/,
    'site-directory-missing',
    'its directory does not exist',
    'make the directory on the site, or choose another',
  ],
  [
    /No such file or directory|cannot open|Directory nonexistent/,
    'site-not-found',
    'there is no such file or directory',
    'check the path',
  ],
  [/Is a directory|cannot overwrite directory/, 'site-is-directory', 'it is a directory', 'name a file'],
  [/Not a directory/, 'site-not-directory', 'a part of the path is not a directory', 'check the path'],
  [/File exists/, 'site-exists', 'something of that name is in the way', 'choose another name, or remove it there'],
  [/File name too long/, 'site-name-too-long', 'the name is too long', 'choose a shorter name'],
];

/** What a command on the site said of a file, as an error. */
export function fileError(what: string, path: string, stderr: string, code: number | null): HpcsError {
  const last = stderr.trim().split('\n').at(-1)?.slice(0, 300) ?? '';
  for (const [pattern, name, fact, suggestion] of troubles) {
    if (!pattern.test(stderr)) continue;
    return new HpcsError('site', name, `cannot ${what} ${path} on the site: ${fact}`, { suggestion, cause: new Error(last) });
  }
  return new HpcsError(
    'site',
    'site-command-failed',
    `cannot ${what} ${path} on the site: ${last || `exit code ${code ?? 'none'}`}`,
    { suggestion: 'look at that path on the site; if nothing is wrong with it, try again, and tell the site if it stays so' },
  );
}

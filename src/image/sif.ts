import type Docker from 'dockerode';
import { HpcsError } from '../errors.ts';
import { createContainer, startContainer, type ContainerSpec, type RunningContainer } from './container.ts';
import { dockerError } from './docker.ts';
import { encodeEntries, ImageTree } from './entries.ts';
import { rewriteTar } from './flatten.ts';
import { sifHeader, sifHeaderSize } from './sif-header.ts';
import type { SourceImage } from './source.ts';

/** SquashFS compressions: zstd needs Linux 4.14 or a squashfuse with zstd on the site, gzip runs everywhere. */
export const sifCompressions = ['zstd', 'gzip'] as const;
export type SifCompression = (typeof sifCompressions)[number];

// Beyond these levels time grows much faster than the file shrinks.
const levels: Readonly<Record<SifCompression, number>> = { zstd: 3, gzip: 6 };

/** Memory for the build beside its tmpfs, in bytes; tar2sqfs uses about 10 MB for each processor. */
const buildMemory = 1024 ** 3;

/** What to make a SIF from, and how. */
export interface SifOptions {
  readonly docker: Docker;
  readonly source: SourceImage;
  /** Image that holds `tar2sqfs`. */
  readonly buildImage: string;
  readonly compression: SifCompression;
  /** Largest part of the engine's memory that the unsealed file system may take, in bytes; else it lies on the engine's disk. Default: a quarter. */
  readonly tmpfsLimit?: number;
  readonly signal?: AbortSignal | undefined;
  readonly progress: (message: string) => void;
}

/** A SIF that streams out of the container it was made in. Read `bytes` once, then dispose: nothing of it stays. */
export interface SifStream extends AsyncDisposable {
  readonly bytes: AsyncIterable<Uint8Array>;
  /** Bytes of the SIF. */
  readonly size: number;
}

// The size comes first, in a line of its own; then the file itself.
const buildScript = `set -eu
tar2sqfs --quiet --no-skip --compressor "$1" --comp-extra "level=$2" --num-jobs "$(nproc)" --defaults "mtime=$3" /build/rootfs.squashfs >&2
stat -c %s /build/rootfs.squashfs
exec cat /build/rootfs.squashfs`;

/**
 * Makes a SIF of an image: the flattened file system, with what Apptainer and the job need added to it, goes as a tar stream into
 * an unprivileged container, which makes SquashFS of it. SquashFS needs a seekable file: in the container's memory where it
 * fits, else in its own layer on the engine's disk. Everything travels through the API, so the engine may be elsewhere.
 *
 * @throws HpcsError `local`
 */
export async function buildSif(options: SifOptions): Promise<SifStream> {
  const { docker, source, signal, progress } = options;
  // What cannot be compressed grows a little: block lists, inodes, padding.
  const needed = Math.ceil(source.size * 1.05) + 64 * 1024 ** 2;
  const limit = options.tmpfsLimit ?? (await engineMemory(docker)) / 4;
  if (needed <= limit) {
    try {
      return await buildIn(options, needed);
    } catch (error) {
      if (!(error instanceof HpcsError) || error.code !== 'build-space') throw error;
    }
  }
  progress(
    'the image is too large for memory: its unsealed file system lies on the disk of the Docker engine until it is sealed',
  );
  signal?.throwIfAborted();
  return buildIn(options, undefined);
}

async function engineMemory(docker: Docker): Promise<number> {
  try {
    return ((await docker.info()) as { MemTotal: number }).MemTotal;
  } catch (error) {
    throw dockerError('cannot ask the engine for its memory', error);
  }
}

async function buildIn(options: SifOptions, tmpfs: number | undefined): Promise<SifStream> {
  const { docker, source, compression, signal, progress } = options;
  const started = Date.now();
  const running = await startContainer(docker, buildSpec(options, tmpfs), signal);
  try {
    const [start] = await Promise.all([readStart(running), feedImage(running, options)]);
    if (start === undefined) throw await failure(running, tmpfs !== undefined);
    const { size, first } = start;
    progress(
      `made a SIF of ${megabytes(size + sifHeaderSize)} from ${megabytes(source.size)} in ${((Date.now() - started) / 1000).toFixed(1)} s (${compression})`,
    );
    const architecture = source.config.platform.split('/')[1] ?? '';
    const header = sifHeader({ size, architecture, created: new Date() });
    return {
      bytes: sifBytes([header, first], size, running, tmpfs !== undefined),
      size: header.length + size,
      [Symbol.asyncDispose]: () => running[Symbol.asyncDispose](),
    };
  } catch (error) {
    await running[Symbol.asyncDispose]();
    signal?.throwIfAborted();
    throw error;
  }
}

function buildSpec({ buildImage, compression }: SifOptions, tmpfs: number | undefined): ContainerSpec {
  const limits = { PidsLimit: 256, Ulimits: [{ Name: 'core', Soft: 0, Hard: 0 }], CapDrop: ['ALL'], NetworkMode: 'none' };
  return {
    image: buildImage,
    entrypoint: ['/bin/sh', '-c', buildScript, 'build'],
    command: [compression, String(levels[compression]), String(Math.floor(Date.now() / 1000))],
    user: '65532:65532',
    host:
      tmpfs === undefined
        ? { ...limits, Memory: buildMemory }
        : {
            ...limits,
            Memory: buildMemory + tmpfs,
            // No swap: what lies in memory so as not to touch a disk must not be swapped to one.
            MemorySwap: buildMemory + tmpfs,
            ReadonlyRootfs: true,
            Tmpfs: { '/build': `rw,noexec,nosuid,nodev,size=${tmpfs},mode=0700,uid=65532,gid=65532` },
          },
  };
}

async function feedImage(running: RunningContainer, { docker, source, signal, progress }: SifOptions): Promise<void> {
  // Never started; the command is only there because the engine wants one. Its declared volumes would be copied for nothing.
  await using container = await createContainer(
    docker,
    {
      image: source.id,
      entrypoint: ['/hpcs-never-started'],
      command: [],
      host: { NetworkMode: 'none', Tmpfs: Object.fromEntries(source.volumes.map((path) => [path, ''])) },
    },
    signal,
  );
  const tree = new ImageTree(source.config, source.labels);
  const now = Math.floor(Date.now() / 1000);
  const added = (): Iterable<Uint8Array> => encodeEntries(tree.additions(), now);
  await running.feed(rewriteTar(container.export(signal), (entry) => tree.keep(entry), added));
  for (const path of tree.replaced) progress(`the image's own ${path} is replaced`);
}

/** The line before the file, and what of the file came with it; undefined where the container ends without. */
async function readStart(running: RunningContainer): Promise<{ size: number; first: Uint8Array } | undefined> {
  let line = '';
  for (;;) {
    const { done, value } = await running.stdout.next();
    if (done === true) return undefined;
    const end = value.indexOf(0x0a);
    line += Buffer.from(value).toString('latin1', 0, end < 0 ? value.length : end);
    if (end >= 0 && /^\d{1,16}$/.test(line)) return { size: Number(line), first: value.subarray(end + 1) };
    if (end < 0 && line.length <= 16) continue;
    throw new HpcsError('local', 'sif-build', 'the build container did not say how large the file system is', {
      suggestion: 'remove build-image from the configuration, or correct the image it names',
    });
  }
}

async function* sifBytes(
  [header, first]: readonly [Uint8Array, Uint8Array],
  size: number,
  running: RunningContainer,
  inMemory: boolean,
): AsyncGenerator<Uint8Array> {
  yield header;
  if (first.length > 0) yield first;
  let left = size - first.length;
  for await (const part of running.stdout) {
    left -= part.length;
    if (left < 0) break;
    yield part;
  }
  if (left !== 0) throw await failure(running, inMemory);
}

async function failure(running: RunningContainer, inMemory: boolean): Promise<HpcsError> {
  const code = await running.exit;
  const words = running.stderr;
  // tar2sqfs does not say why it cannot write.
  if (/no space left/i.test(words) || (inMemory && (code === 137 || /I\/O error/.test(words)))) {
    return new HpcsError('local', 'build-space', 'no room for the file system of the image on the Docker engine', {
      suggestion: "free disk space there, for example with 'docker system prune'",
    });
  }
  const said = words.split('\n').slice(-3).join(' | ') || 'it said nothing';
  return new HpcsError('local', 'sif-build', `making the SIF failed with exit code ${code}: ${said}`, {
    suggestion: 'check that the Docker engine has disk space left, and see its log',
  });
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

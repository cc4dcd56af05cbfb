import type Docker from 'dockerode';
import type { Bytes } from '../seal/bytes.ts';
import { tuneForStreams } from '../streaming.ts';
import { BlockStore, type StoredContent } from './block-store.ts';
import { ImageTree } from './entries.ts';
import { readFiles } from './files.ts';
import { sifHeader, sifHeaderSize } from './sif-header.ts';
import type { SourceImage } from './source.ts';
import { squashfsTables, superblockSize, type SifCompression } from './squashfs.ts';
import type { FileTree, TreeNode } from './tree.ts';

/** What to make a SIF from, and how. */
export interface SifOptions {
  readonly docker: Docker;
  readonly source: SourceImage;
  readonly compression: SifCompression | Promise<SifCompression>;
  readonly signal?: AbortSignal | undefined;
  readonly progress: (message: string) => void;
}

/** A SIF whose parts lie ready. Read `bytes` once, then dispose: nothing of it stays. */
export interface SifStream extends AsyncDisposable {
  readonly bytes: AsyncIterable<Uint8Array>;
  /** Bytes of the SIF. */
  readonly size: number;
}

/**
 * Makes a SIF of an image: its files are compressed as they come from the engine, and when the last one has come, the file system is
 * written around those that are in the image, with what Apptainer and the job need added. No container is made and nothing of the image
 * is run.
 *
 * @throws HpcsError `local`
 */
export async function buildSif(options: SifOptions): Promise<SifStream> {
  const { docker, source, signal, progress } = options;
  tuneForStreams({ countBuffers: true });
  const started = performance.now();
  await using cleanup = new AsyncDisposableStack();
  const given = new AbortController();
  cleanup.defer(() => given.abort());
  const asked = signal === undefined ? given.signal : AbortSignal.any([signal, given.signal]);
  // The engine takes its time before the first byte; meanwhile the site tells what it can read.
  const starting = (async () => BlockStore.start(await options.compression))();
  cleanup.defer(async () => (await starting.catch(() => undefined))?.[Symbol.asyncDispose]());
  const keep = async (size: number, body: Bytes): Promise<StoredContent> => (await starting).add(size, body);
  const [tree, store] = await Promise.all([readFiles({ docker, source, keep, signal: asked, progress }), starting]);
  const compression = await options.compression;
  const created = Math.floor(Date.now() / 1000);
  await addOurs(tree, options, created, store);
  await store.finish();
  const data = await store.layOut(contentsOf(tree), superblockSize);
  const { superblock, tables } = squashfsTables({
    root: tree.root,
    place: data.place,
    fragments: data.fragments,
    dataEnd: data.end,
    compression,
    created,
  });
  signal?.throwIfAborted();
  const size = data.end + tables.length;
  progress(
    `made a SIF of ${megabytes(sifHeaderSize + size)} from ${megabytes(source.size)} in ${((performance.now() - started) / 1000).toFixed(1)} s (${compression})`,
  );
  const architecture = source.config.platform.split('/')[1] ?? '';
  // What is run, and how: with it the digest of the sealed image says more than which files are in it.
  const config = Buffer.from(JSON.stringify(source.config));
  const header = sifHeader({ size, configSize: config.length, architecture, created: new Date(created * 1000) });
  const owned = cleanup.move();
  return {
    bytes: (async function* () {
      yield Buffer.concat([header, superblock]);
      for await (const piece of data.bytes) {
        signal?.throwIfAborted();
        yield piece;
      }
      yield tables;
      yield config;
    })(),
    size: header.length + size + config.length,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Leaves out what has no place in a SIF, and adds what belongs there. */
async function addOurs(
  tree: FileTree<StoredContent>,
  { source, progress }: SifOptions,
  created: number,
  store: BlockStore,
): Promise<void> {
  const ours = new ImageTree(source.config, source.labels);
  tree.prune((path, { type }) => ours.keep(path, type));
  for (const path of ours.replaced) progress(`the image's own ${path} is replaced`);
  const added: { path: string; node: TreeNode<StoredContent> }[] = [];
  for (const { path, type, mode, content } of ours.additions()) {
    const attributes = { mode, uid: 0, gid: 0, mtime: created, xattrs: new Map<string, Uint8Array>() };
    if (type === 'directory') added.push({ path, node: { type, attributes, children: new Map() } });
    else {
      const bytes = Buffer.from(content);
      const kept = await store.add(bytes.length, (async function* () { yield bytes; })()); // prettier-ignore
      added.push({ path, node: { type, attributes, content: kept } });
    }
  }
  tree.apply(added);
  tree.root.attributes = { ...tree.root.attributes, mtime: created };
}

function contentsOf(tree: FileTree<StoredContent>): Set<StoredContent> {
  const contents = new Set<StoredContent>();
  tree.prune((_, node) => {
    if (node.type === 'file') contents.add(node.content);
    return true;
  });
  return contents;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/**
 * An image as the engine saves it: an archive of archives, one for each layer, and a list of them, which may come last.
 *
 * @see Docker Engine API, "Export an image"; OCI image-spec, layer.md, image-layout.md
 */
import { posix } from 'node:path';
import { HpcsError } from '../errors.ts';
import { isTar, readTar, tarBlock, type ReadTarEntry } from '../pack/tar.ts';
import { ByteReader, type Bytes } from '../seal/bytes.ts';
import { decompressed } from '../seal/compress.ts';
import { FileTree, type LayerEntry, type TreeNode } from './tree.ts';

/** Longest list of layers that is believed, in bytes. */
const longestList = 4 * 1024 * 1024;

const xattrPrefix = 'SCHILY.xattr.';

/**
 * Reads a saved image and applies its layers, whatever their order in the archive.
 *
 * @param keep takes the content of a file; one that a later layer hides comes too, since that is not known yet
 * @throws HpcsError `local` for what is no saved image, is damaged or ends early
 */
export async function readImage<Content>(
  saved: Bytes,
  keep: (size: number, body: Bytes) => Promise<Content>,
): Promise<FileTree<Content>> {
  const layers = new Map<string, LayerEntry<Content>[]>();
  const aliases = new Map<string, string>();
  let list: Buffer | undefined;
  try {
    for await (const { name, type, linkname, size, body } of readTar(saved)) {
      const path = posix.normalize(name);
      if (type === 'symlink') aliases.set(path, posix.join(posix.dirname(path), linkname));
      else if (type === 'hardlink') aliases.set(path, posix.normalize(linkname));
      else if (path === 'manifest.json' && size <= longestList) list = Buffer.concat(await Array.fromAsync(body));
      else if (type === 'file') {
        const layer = await readLayer(body, keep);
        if (layer !== undefined) layers.set(path, layer);
      }
    }
  } catch (error) {
    // Of an artefact this would be tampering; here it is an engine that broke off.
    if (!(error instanceof HpcsError) || error.kind !== 'integrity') throw error;
    throw broken(`did not come whole: ${error.message}`, error);
  }
  const tree = new FileTree<Content>();
  for (const name of layerNames(list)) {
    let path = posix.normalize(name);
    for (let links = 0; links < 8 && !layers.has(path); links++) path = aliases.get(path) ?? path;
    const layer = layers.get(path);
    if (layer === undefined) throw broken(`came without its layer ${name}`);
    tree.apply(layer);
  }
  return tree;
}

/** A layer, or undefined for a file that is none: descriptions lie beside the layers. */
async function readLayer<Content>(
  body: Bytes,
  keep: (size: number, body: Bytes) => Promise<Content>,
): Promise<LayerEntry<Content>[] | undefined> {
  await using reader = new ByteReader(decompressed(body));
  if (!isTar(await reader.peek(tarBlock))) return undefined;
  const entries: LayerEntry<Content>[] = [];
  for await (const entry of readTar(reader.rest())) {
    if (entry.type === 'hardlink') entries.push({ path: entry.name, linkTo: entry.linkname });
    else {
      const node = await nodeOf(entry, keep);
      if (node !== undefined) entries.push({ path: entry.name, node });
    }
  }
  return entries;
}

async function nodeOf<Content>(
  entry: ReadTarEntry,
  keep: (size: number, body: Bytes) => Promise<Content>,
): Promise<TreeNode<Content> | undefined> {
  const { type, mode, uid, gid, mtime, pax } = entry;
  const xattrs = new Map(
    // Copied: the values are views of a larger piece of the stream.
    [...pax].flatMap(([key, value]) =>
      key.startsWith(xattrPrefix) ? [[key.slice(xattrPrefix.length), Uint8Array.from(value)] as const] : [],
    ),
  );
  const attributes = { mode, uid, gid, mtime, xattrs };
  if (type === 'file') return { type, attributes, content: await keep(entry.size, entry.body) };
  if (type === 'directory') return { type, attributes, children: new Map() };
  if (type === 'symlink') return { type, attributes, target: entry.linkname };
  // An entry of a letter that says nothing to us is nothing that a file system could hold.
  return type === 'other' || type === 'hardlink' ? undefined : { type, attributes };
}

/** The layers of the one image in the list, the lowest first. */
function layerNames(list: Buffer | undefined): string[] {
  if (list === undefined) throw broken('came without a list of its layers');
  let images: unknown;
  try {
    images = JSON.parse(list.toString('utf8'));
  } catch (error) {
    throw broken('came with a list of layers that is no JSON', error);
  }
  const [image, ...others] = Array.isArray(images) ? (images as unknown[]) : [];
  if (others.length > 0) throw broken('came with others: the engine saved several platforms');
  const layers = typeof image === 'object' && image !== null && 'Layers' in image ? image.Layers : undefined;
  // An image of no layers has no list.
  if (layers === null) return [];
  if (!Array.isArray(layers) || !layers.every((layer) => typeof layer === 'string'))
    throw broken('came without a list of its layers');
  return layers;
}

function broken(how: string, cause?: unknown): HpcsError {
  return new HpcsError('local', 'image-stream', `the image ${how}`, {
    cause,
    suggestion: 'try again, and see the log of the Docker engine',
  });
}

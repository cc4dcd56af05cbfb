import assert from 'node:assert/strict';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { readImage } from '../../../src/image/layers.ts';
import type { FileTree } from '../../../src/image/tree.ts';
import { tarOf, type SmallTarEntry } from '../../../src/pack/tar.ts';

async function* pieces(bytes: Uint8Array, size = 4096): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}
const read = (entries: readonly SmallTarEntry[], cut = 0): Promise<FileTree<string>> => {
  const archive = tarOf(entries);
  return readImage(pieces(archive.subarray(0, archive.length - cut), 1000), async (_, body) =>
    Buffer.concat(await Array.fromAsync(body)).toString(),
  );
};
const manifest = (...layers: string[]): SmallTarEntry => ({
  name: 'manifest.json',
  content: JSON.stringify([{ Config: 'c.json', RepoTags: null, Layers: layers }]),
});
const text = (tree: FileTree<string>, path: string): string | undefined => {
  const node = tree.find(path);
  return node?.type === 'file' ? node.content : node?.type;
};

describe('a saved image', () => {
  const lower = tarOf([
    { name: 'etc/', type: 'directory' },
    { name: 'etc/kept', content: 'lower', uid: 3_000_000_000, mode: 0o4755 },
    { name: 'etc/changed', content: 'lower' },
    { name: 'etc/gone', content: 'lower' },
  ]);
  const xattrs = new Map([
    ['SCHILY.xattr.user.note', Buffer.from([0, 10, 255])],
    ['SCHILY.xattr.security.capability', Buffer.from([1])],
  ]);
  const upper = tarOf([
    { name: 'etc/changed', content: 'upper', pax: xattrs, mtime: 1.5 },
    { name: 'etc/.wh.gone' },
    { name: 'dev/null', type: 'character' },
    { name: 'pipe', type: 'fifo' },
  ]);

  it('is read whatever the order of its parts', async () => {
    const parts: SmallTarEntry[] = [
      { name: 'bbb/', type: 'directory' },
      { name: 'aaa/layer.tar', content: upper },
      { name: 'bbb/layer.tar', content: lower },
      { name: 'c.json', content: '{"config":{}}' },
      manifest('bbb/layer.tar', 'aaa/layer.tar'),
    ];
    for (const entries of [parts, parts.toReversed()]) {
      const tree = await read(entries);
      assert.deepEqual(['etc/kept', 'etc/changed', 'etc/gone', 'dev/null', 'pipe'].map((path) => text(tree, path)), ['lower', 'upper', undefined, 'character', 'fifo']); // prettier-ignore
      const { mode, uid, mtime } = tree.find('etc/kept')?.attributes ?? {};
      assert.deepEqual([mode, uid, mtime], [0o4755, 3_000_000_000, 0]);
      const changed = tree.find('etc/changed')?.attributes.xattrs;
      assert.deepEqual([...(changed ?? [])], [['user.note', Uint8Array.of(0, 10, 255)], ['security.capability', Uint8Array.of(1)]]); // prettier-ignore
    }
  });

  it('is read from an OCI layout, compressed or not, and with a layer that stands twice', async () => {
    const tree = await read([
      { name: 'blobs/sha256/1', content: gzipSync(lower) },
      { name: 'blobs/sha256/2', content: zstdCompressSync(upper) },
      { name: 'blobs/sha256/3', content: '{"mediaType":"application/vnd.oci.image.manifest.v1+json"}' },
      { name: 'old/layer.tar', type: 'symlink', linkname: '../blobs/sha256/1' },
      manifest('blobs/sha256/1', 'blobs/sha256/2', 'old/layer.tar'),
      { name: 'oci-layout', content: '{}' },
    ]);
    assert.deepEqual(['etc/changed', 'etc/gone'].map((path) => text(tree, path)), ['lower', 'lower']); // prettier-ignore
  });

  it('without layers is an empty tree', async () => {
    const tree = await read([{ name: 'manifest.json', content: '[{"Layers":null}]' }]);
    assert.equal(tree.root.children.size, 0);
  });

  it('that is not whole is an error of the engine', async () => {
    const layer: SmallTarEntry = { name: 'a/layer.tar', content: lower };
    for (const [entries, cut] of [
      [[layer], 0],
      [[layer, manifest('a/layer.tar', 'b/layer.tar')], 0],
      [[layer, manifest('a/layer.tar')], 1024],
      [[manifest('a/layer.tar'), layer], 3000],
      [[{ name: 'a/layer.tar', content: lower.subarray(0, 1024) }, manifest('a/layer.tar')], 0],
      [[{ name: 'a/layer.tar', content: gzipSync(lower).subarray(0, 100) }, manifest('a/layer.tar')], 0],
      [[layer, { name: 'manifest.json', content: '{' }], 0],
      [[layer, { name: 'manifest.json', content: '[{"Layers":["a/layer.tar"]},{"Layers":[]}]' }], 0],
    ] as const)
      await assert.rejects(read(entries, cut), { code: 'image-stream', exitCode: 3 });
  });
});

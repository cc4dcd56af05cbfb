import assert from 'node:assert/strict';
import { readTar, tarHeader, tarOf, tarPadding } from '../../../src/pack/tar.ts';
import { rewriteTar } from '../../../src/image/flatten.ts';

describe('rewriting the flattened image', () => {
  const xattr = new Map([['SCHILY.xattr.security.capability', Buffer.from([1, 0, 0, 2, 0x20, 0, 10, 0])]]);
  const archive = tarOf([
    { name: 'etc/', type: 'directory' },
    { name: 'etc/odd', content: 'x'.repeat(1500), pax: xattr, uid: 3_000_000_000, mode: 0o4755 },
    { name: `long/${'n'.repeat(200)}/ü`, content: 'y' },
    { name: 'drop/this', content: 'z'.repeat(700) },
    { name: 'hard', type: 'hardlink', linkname: 'etc/odd' },
  ]);
  async function* pieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
  }
  const collect = async (source: AsyncIterable<Uint8Array>): Promise<Buffer> => Buffer.concat(await Array.fromAsync(source));

  it('keeps every byte where everything is kept', async () => {
    for (const size of [1, 511, 513, 100_000])
      assert.deepEqual(
        await collect(
          rewriteTar(
            pieces(archive, size),
            () => true,
            () => [],
          ),
        ),
        Buffer.from(archive),
      );
  });

  it('leaves out what it is told to and adds at the end', async () => {
    const added = [tarHeader({ name: 'new', size: 3 }), Buffer.from('new'), Buffer.alloc(tarPadding(3))];
    const result = await collect(
      rewriteTar(
        pieces(archive, 1000),
        ({ path }) => path !== 'drop/this',
        () => added,
      ),
    );
    const seen = new Map<string, number>();
    for await (const { name, body } of readTar(pieces(result, 4096))) seen.set(name, (await collect(body)).length);
    assert.deepEqual([...seen.values()], [0, 1500, 1, 0, 3]);
    assert.ok(seen.has('new') && !seen.has('drop/this'));
    assert.ok(result.includes(Buffer.from('SCHILY.xattr.security.capability')));
  });

  it('shows paths without slashes at their ends, and targets of links', async () => {
    const seen: string[] = [];
    const more = tarOf([
      { name: './a/', type: 'directory' },
      { name: '/b' },
      { name: './', type: 'directory' },
      { name: 'h', type: 'hardlink', linkname: './b' },
    ]);
    await collect(
      rewriteTar(
        pieces(more, 64),
        ({ path, target }) => seen.push(`${path}>${target}`) > 0,
        () => [],
      ),
    );
    assert.deepEqual(seen, ['a>', 'b>', '>', 'h>b']);
  });

  it('a stream that ends early or is no tar is an error of the engine', async () => {
    for (const bytes of [archive.subarray(0, 1024), archive.subarray(0, archive.length - 1024), Buffer.alloc(1024, 'x')])
      await assert.rejects(
        collect(
          rewriteTar(
            pieces(bytes, 300),
            () => true,
            () => [],
          ),
        ),
        { code: 'image-stream', exitCode: 3 },
      );
  });
});

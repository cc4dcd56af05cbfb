import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { fstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { inflateSync, zstdDecompressSync } from 'node:zlib';
import { BlockStore, type StoredContent } from '../../../src/image/block-store.ts';
import { fileBlockSize, sifCompressions, squeeze, storedBit, type SifCompression } from '../../../src/image/squashfs.ts';

const start = 96;

async function* pieces(bytes: Buffer, size = 50_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** What a reader of the file system finds where contents are said to lie. */
async function readBack(store: BlockStore, contents: readonly StoredContent[], compression: SifCompression): Promise<Buffer[]> {
  const layout = await store.layOut(contents, start);
  const bytes = Buffer.concat([Buffer.alloc(start), ...(await Array.fromAsync(layout.bytes))]);
  assert.equal(bytes.length, layout.end);
  const expand = (at: number, word: number): Buffer => {
    const kept = bytes.subarray(at, at + (word & (storedBit - 1)));
    if ((word & storedBit) !== 0) return kept;
    return compression === 'zstd' ? zstdDecompressSync(kept) : inflateSync(kept);
  };
  return contents.map((content) => {
    const place = layout.place(content);
    if (place.fragment !== undefined) {
      const fragment = layout.fragments[place.fragment.index];
      assert.ok(fragment && fragment.word !== 0);
      return expand(fragment.start, fragment.word).subarray(place.fragment.offset, place.fragment.offset + place.size);
    }
    let at = place.start;
    const blocks = place.blocks.map((word, index) => {
      const block = word === 0 ? Buffer.alloc(Math.min(fileBlockSize, place.size - index * fileBlockSize)) : expand(at, word);
      at += word & (storedBit - 1);
      return block;
    });
    return Buffer.concat(blocks);
  });
}

const ownFiles = (): number[] =>
  readdirSync('/proc/self/fd')
    .filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).includes('/hpcs-blocks-');
      } catch {
        return false;
      }
    })
    .map(Number);

describe('the store of blocks', () => {
  const sizes = [0, 1, 1000, 100_000, fileBlockSize - 1, fileBlockSize, fileBlockSize + 1, 3 * fileBlockSize, 4 * fileBlockSize + 77]; // prettier-ignore
  const plain = [
    ...sizes.map((size) => randomBytes(size)),
    ...sizes.map((size) => Buffer.alloc(size, 'some text ')),
    ...sizes.map((size) => Buffer.alloc(size)),
    Buffer.concat([randomBytes(fileBlockSize), Buffer.alloc(2 * fileBlockSize), Buffer.from('end')]),
  ];

  for (const compression of sifCompressions) {
    it(`gives back what it took: ${compression}`, async () => {
      await using store = await BlockStore.start(compression);
      const contents: StoredContent[] = [];
      for (const bytes of plain) contents.push(await store.add(bytes.length, pieces(bytes)));
      await store.finish();
      assert.deepEqual(await readBack(store, contents, compression), plain);
      // Laid out anew it is the same: nothing was used up.
      const some = contents.filter((_, index) => index % 3 === 1);
      const kept = plain.filter((_, index) => index % 3 === 1);
      assert.deepEqual(await readBack(store, some, compression), kept);
    });
  }

  it('leaves nothing of what is not wanted in the bytes, also where it lay among others', async () => {
    await using store = await BlockStore.start('zstd');
    const secrets = [randomBytes(5000), randomBytes(fileBlockSize + 5000)];
    const others = Array.from({ length: 20 }, () => randomBytes(3000));
    const contents: StoredContent[] = [];
    for (const bytes of [...others.slice(0, 10), ...secrets, ...others.slice(10)])
      contents.push(await store.add(bytes.length, pieces(bytes)));
    await store.finish();
    const wanted = contents.toSpliced(10, 2);
    assert.deepEqual(await readBack(store, wanted, 'zstd'), others);
    const bytes = Buffer.concat(await Array.fromAsync((await store.layOut(wanted, start)).bytes));
    // Random bytes are not compressed: they would be found.
    assert.ok(bytes.includes((others[3] ?? Buffer.alloc(0)).subarray(0, 64)));
    for (const secret of secrets) assert.ok(!bytes.includes(secret.subarray(0, 64)));
  });

  it('keeps it where nobody else can read it, and only as long', async () => {
    const secret = randomBytes(2 * fileBlockSize);
    {
      await using store = await BlockStore.start('zstd');
      await store.add(secret.length, pieces(secret));
      await store.finish();
      const files = ownFiles();
      assert.ok(files.length > 0);
      let kept = 0;
      for (const fd of files) {
        const { nlink, mode, size } = fstatSync(fd);
        assert.deepEqual([nlink, mode & 0o777], [0, 0o600]);
        kept += size;
        assert.ok(!readFileSync(`/proc/self/fd/${fd}`).includes(secret.subarray(0, 64)));
      }
      assert.ok(kept >= secret.length);
    }
    assert.deepEqual(ownFiles(), []);
  });

  it('says where it has no place', async () => {
    const before = process.env['TMPDIR'];
    process.env['TMPDIR'] = '/not/there';
    try {
      await assert.rejects(BlockStore.start('zstd'), { code: 'build-file', message: /\/not\/there/, suggestion: /TMPDIR/ });
    } finally {
      if (before === undefined) delete process.env['TMPDIR'];
      else process.env['TMPDIR'] = before;
    }
    assert.deepEqual(ownFiles(), []);
  });

  it('a content that ends early is an error', async () => {
    await using store = await BlockStore.start('zstd');
    for (const size of [1000, fileBlockSize, fileBlockSize + 1])
      await assert.rejects(store.add(size, pieces(Buffer.alloc(size - 1))), { code: 'image-stream' });
  });

  it('squeezes what gets smaller, and nothing else', () => {
    const random = randomBytes(10_000);
    for (const compression of sifCompressions) {
      assert.equal(squeeze(random, compression), random);
      assert.ok(squeeze(Buffer.alloc(10_000), compression).length < 100);
    }
  });
});

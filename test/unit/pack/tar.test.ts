import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { isTar, readTar, tarEnd, tarHeader, tarOf, type SmallTarEntry, type TarEntry } from '../../../src/pack/tar.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';

/** An entry and its content, as read back. */
async function readBack(archive: Uint8Array, pieces = [512]): Promise<{ entry: Required<TarEntry>; content: Buffer }[]> {
  const found = [];
  for await (const { body, ...entry } of readTar(inPieces(archive, pieces))) found.push({ entry, content: await collect(body) });
  return found;
}

const list = (archive: Uint8Array): string =>
  execFileSync('tar', ['-tvf', '-', '--numeric-owner', '--quoting-style=literal', '--full-time'], { input: archive, env: { TZ: 'UTC', LC_ALL: 'C.UTF-8' } }).toString(); // prettier-ignore

describe('tar', () => {
  const entries: SmallTarEntry[] = [
    { name: 'dir', type: 'directory', mode: 0o750 },
    { name: 'dir/file', content: 'content', mode: 0o640, uid: 1000, gid: 100, mtime: 1_700_000_000 },
    { name: 'empty' },
    { name: '-rf', content: 'dash' },
    { name: 'space and\nnewline', content: 'x' },
    { name: 'Grüße/日本語.txt', content: 'unicode' },
    { name: `${'d/'.repeat(60)}short prefix`, content: 'prefix' },
    { name: `${'long/'.repeat(60)}${'n'.repeat(200)}`, content: 'pax' },
    { name: 'link', type: 'symlink', linkname: 'dir/file' },
    { name: 'longlink', type: 'symlink', linkname: `../${'t'.repeat(3000)}` },
    { name: 'hard', type: 'hardlink', linkname: 'dir/file' },
    { name: 'big numbers', uid: 3_000_000, gid: 4_294_967_294, mtime: 1_700_000_000.25, content: Buffer.alloc(1025, 1) },
    { name: 'old', mtime: -5, mode: 0o4755 },
  ];

  it('writes what it reads', async () => {
    for (const pieces of [[1_000_000], [512], [511, 3, 7]]) {
      const found = await readBack(tarOf(entries), pieces);
      assert.equal(found.length, entries.length);
      for (const [index, { content = '', ...wanted }] of entries.entries()) {
        const { entry, content: read } = found[index] ?? assert.fail();
        assert.deepEqual({ ...entry, name: entry.name.replace(/\/$/, '') }, { ...entry, ...wanted });
        assert.ok(read.equals(Buffer.from(content as string)), wanted.name);
      }
    }
  });

  it('writes what GNU tar reads', () => {
    const text = list(tarOf(entries));
    assert.match(text, /^drwxr-x--- 0\/0 +0 1970-01-01 00:00:00 dir\/$/m);
    assert.match(text, /^-rw-r----- 1000\/100 +7 2023-11-14 22:13:20 dir\/file$/m);
    assert.match(text, /^-rw-r--r-- 0\/0 +7 1970-01-01 00:00:00 Grüße\/日本語.txt$/m);
    assert.match(text, /3000000\/4294967294 +1025 2023-11-14 22:13:20.250* big numbers$/m);
    assert.match(text, /^-rwsr-xr-x .* 1969-12-31 23:59:55 +old$/m);
    assert.ok(text.includes(`${'long/'.repeat(60)}${'n'.repeat(200)}\n`));
    assert.ok(text.includes(` -> ../${'t'.repeat(3000)}\n`));
  });

  it('takes any name, up to and beyond the borders of its fields', async () => {
    const part = fc.stringMatching(/^[a-z]{1,120}$/);
    await fc.assert(
      fc.asyncProperty(fc.array(part, { minLength: 1, maxLength: 6 }), async (parts) => {
        const name = parts.join('/');
        const archive = tarOf([{ name, content: 'x' }]);
        assert.equal((await readBack(archive))[0]?.entry.name, name);
      }),
      { numRuns: 300 },
    );
    for (let length = 95; length < 260; length++) {
      const name = `${'a'.repeat(Math.floor(length / 2))}/${'b'.repeat(length - Math.floor(length / 2) - 1)}`;
      assert.equal((await readBack(tarOf([{ name }])))[0]?.entry.name, name);
    }
  });

  it('announces sizes of more than 8 GiB', async () => {
    const header = tarHeader({ name: 'large', size: 10_000_000_000_000 });
    const { value } = await readTar(inPieces(header)).next();
    assert.equal(value?.size, 10_000_000_000_000);
  });

  it('keeps records that it does not know', async () => {
    const capability = Buffer.from('010000020020000000000000000000000000000a', 'hex');
    const pax = new Map([
      ['SCHILY.xattr.security.capability', capability],
      ['SCHILY.xattr.user.note', Buffer.from('a=b\nc')],
    ]);
    const archive = tarOf([{ name: 'ping', content: 'ELF', pax }, { name: 'after' }]);
    const [ping, after] = await readBack(archive, [100]);
    assert.deepEqual(new Map([...(ping?.entry.pax ?? [])].map(([key, value]) => [key, Buffer.from(value)])), pax);
    assert.deepEqual([ping?.entry.name, after?.entry.name, after?.entry.pax.size], ['ping', 'after', 0]);
  });

  it('keeps them when an entry is written anew', async () => {
    const pax = new Map([['SCHILY.xattr.user.x', Buffer.from([0, 255, 10])]]);
    const [found] = await readBack(tarOf([{ name: 'a', pax }]));
    const [again] = await readBack(tarOf([{ ...(found?.entry ?? { name: '' }), name: 'b' }]));
    assert.deepEqual(Buffer.from(again?.entry.pax.get('SCHILY.xattr.user.x') ?? []), Buffer.from([0, 255, 10]));
    assert.equal(again?.entry.name, 'b');
  });

  it("reads GNU tar's own formats", async () => {
    const directory = await mkdtemp(join(tmpdir(), 'tar-'));
    try {
      const name = `${'deep/'.repeat(30)}${'n'.repeat(150)}`;
      await mkdir(join(directory, 'deep/'.repeat(30)), { recursive: true });
      await writeFile(join(directory, name), 'content');
      await symlink('t'.repeat(300), join(directory, 'link'));
      for (const format of ['gnu', 'posix', 'oldgnu']) {
        const archive = execFileSync('tar', ['-C', directory, `--format=${format}`, '-c', '.']);
        assert.ok(isTar(archive.subarray(0, 512)));
        const found = await readBack(archive, [10_240]);
        assert.equal(found.find(({ entry }) => entry.name === `./${name}`)?.content.toString(), 'content', format);
        assert.equal(found.find(({ entry }) => entry.name === './link')?.entry.linkname, 't'.repeat(300), format);
      }
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it('skips contents that nobody reads', async () => {
    const names = [];
    for await (const { name } of readTar(inPieces(tarOf(entries), [100]))) names.push(name);
    assert.equal(names.length, entries.length);
  });

  it('tells an archive from other things', () => {
    assert.ok(isTar(Buffer.from(tarOf(entries))));
    assert.ok(isTar(Buffer.from(tarOf([]))));
    for (const other of [
      Buffer.alloc(511),
      Buffer.alloc(512, 'x'),
      Buffer.from('#!/usr/bin/env run-singularity\n'.padEnd(512, '\0')),
    ])
      assert.ok(!isTar(other));
  });

  it('refuses what is damaged, cut or no archive', async () => {
    const whole = Buffer.from(tarOf(entries));
    for (const size of [0, 1, 511, 512, 1000, 1536, whole.length - 1024, whole.length - 1100])
      await assert.rejects(readBack(whole.subarray(0, size)), failsWith('integrity', 'archive-invalid'), `cut to ${size}`);
    await assert.rejects(readBack(Buffer.alloc(2048, 'text')), failsWith('integrity', 'archive-invalid'));
    for (const at of [0, 105, 130, 150, 156, 300]) {
      const altered = Buffer.from(whole);
      altered[at] = (altered[at] ?? 0) ^ 0x01;
      await assert.rejects(readBack(altered), failsWith('integrity', 'archive-invalid'), `byte ${at}`);
    }
    const bad = (content: string): Buffer => Buffer.concat([recordOf('x', content), tarOf([{ name: 'a' }])]);
    for (const content of [
      '99 path=a\n',
      '9 path=a',
      '0 path=a\n',
      'path=a\n',
      '10 path a\n',
      '12 size=1e9\n',
      '11 size=-1\n',
      '24 GNU.sparse.major=1\n\n',
    ])
      await assert.rejects(readBack(bad(content)), failsWith('integrity', 'archive-invalid'), content);
  });

  it('refuses records without end, before an entry and for all entries', async () => {
    for (const letter of ['x', 'g']) {
      let given = 0;
      const endless = async function* (length: number): AsyncGenerator<Uint8Array> {
        for (let index = 0; index < 100_000; index++) {
          const record = ` key${String(index).padStart(6, '0')}=${'v'.repeat(length)}\n`;
          given += record.length;
          const digits = String(record.length).length;
          yield recordOf(letter, `${record.length + String(record.length + digits).length}${record}`);
        }
        yield tarOf([{ name: 'end' }]);
      };
      // Short ones take memory too.
      for (const [length, most] of [
        [1024 * 1024, 10 * 1024 * 1024],
        [1, 1024 * 1024],
      ] as const) {
        given = 0;
        const reading = collect(namesOf(readTar(endless(length))));
        await assert.rejects(reading, failsWith('integrity', 'archive-invalid'), `${letter} ${length}`);
        assert.ok(given <= most, `${letter}: read ${given} bytes`);
      }
    }
  });
});

async function* namesOf(entries: AsyncIterable<{ name: string }>): AsyncGenerator<Uint8Array> {
  for await (const { name } of entries) yield Buffer.from(name);
}

/** A header of this letter with its content. */
function recordOf(letter: string, content: string): Buffer {
  const blocks = Buffer.from(tarOf([{ name: 'PaxHeader', content }])).subarray(0, -tarEnd.length);
  blocks.write(letter, 156);
  blocks.fill(' ', 148, 156);
  const sum = blocks.subarray(0, 512).reduce((all, byte) => all + byte, 0);
  blocks.write(`${sum.toString(8).padStart(6, '0')}\0`, 148);
  return blocks;
}

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { lstat, readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HpcsError } from '../../../src/errors.ts';
import { decryptContent } from '../../../src/gocryptfs/content.ts';
import { Eme } from '../../../src/gocryptfs/eme.ts';
import { classifyName, decryptLink, decryptName, longNameOf } from '../../../src/gocryptfs/names.ts';
import { VolumeTree } from '../../../src/gocryptfs/tree.ts';
import { openVolume, type VolumeKeys } from '../../../src/gocryptfs/volume.ts';
import { Secret } from '../../../src/secret.ts';
import { failsWith } from '../../support/streams.ts';
import type { PlainEntry } from '../../support/plain-tree.ts';

// Made by the real gocryptfs: see make.ts beside them.
const vectors = fileURLToPath(new URL('../../vectors/gocryptfs', import.meta.url));
const volume = join(vectors, 'volume');
const configuration = readFileSync(join(volume, 'gocryptfs.conf'), 'utf8');
const password = new Secret(readFileSync(join(vectors, 'password'), 'utf8').trim());
const header = 18;
const block = 4128;

/** Asserts an `integrity` error of this code. */
function integrity(code: string, text = /./): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof HpcsError, String(error));
    assert.equal(error.code, code, error.message);
    assert.equal(error.kind, 'integrity');
    assert.match(error.message, text);
    return true;
  };
}

/** Bytes in pieces of a size. */
async function* pieces(bytes: Buffer, size = bytes.length): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

describe('gocryptfs', () => {
  let keys: VolumeKeys;
  /** Cipher paths of the volume by their plain ones. */
  const paths = new Map<string, string>();

  before(async () => {
    keys = openVolume(configuration, password);
    const tree = new VolumeTree(keys);
    const found = await readdir(volume, { recursive: true });
    for (const path of found) {
      const [directory, name] = split(path);
      if (name === 'gocryptfs.diriv') tree.addDirectoryIv(directory, await readFile(join(volume, path)));
      if (classifyName(name).kind === 'name-file') tree.addLongName(path, await readFile(join(volume, path)));
    }
    for (const path of found) {
      if (['name', 'long-name'].includes(classifyName(split(path)[1]).kind))
        paths.set(tree.resolveDirectory(path).toString(), path);
    }
  });

  it('keeps no more of a volume in memory than it may', () => {
    const ways: ((tree: VolumeTree, index: number) => void)[] = [
      (tree, index) => tree.addDirectoryIv(`d${index}`, Buffer.alloc(16)),
      (tree, index) => tree.addLongName(`d${index}`, Buffer.alloc(100)),
      (tree, index) => tree.keep(`d${index}`),
    ];
    for (const way of ways) {
      const tree = new VolumeTree(keys, 10_000);
      for (let index = 0; index < 20; index++) way(tree, index);
      assert.throws(
        () => {
          for (let index = 20; index < 200; index++) way(tree, index);
        },
        failsWith('local', 'volume-too-large'),
      );
    }
  });

  const cipherOf = (plain: string): Promise<Buffer> => readFile(join(volume, paths.get(plain) ?? 'missing'));

  async function decrypt(bytes: Buffer, pieceSize?: number): Promise<{ plain: Buffer; cut: boolean }> {
    let cut = false;
    const parts: Buffer[] = [];
    for await (const part of decryptContent(keys, pieces(bytes, pieceSize), { onCut: () => (cut = true) })) parts.push(part);
    return { plain: Buffer.concat(parts), cut };
  }

  it('reads the tree that gocryptfs wrote', async () => {
    const expected = JSON.parse(await readFile(join(vectors, 'plain.json'), 'utf8')) as Record<string, PlainEntry>;
    assert.deepEqual([...paths.keys()].toSorted(), Object.keys(expected).toSorted());
    assert.ok(Object.keys(expected).length > 30);
    for (const [plain, path] of paths) {
      const stat = await lstat(join(volume, path));
      const entry = expected[plain];
      if (stat.isSymbolicLink()) {
        assert.deepEqual(entry, { kind: 'link', target: decryptLink(keys, await readlink(join(volume, path))).toString() });
      } else if (stat.isFile()) {
        const content = await decrypt(await readFile(join(volume, path)));
        const sha256 = createHash('sha256').update(content.plain).digest('hex');
        assert.deepEqual({ ...entry, mode: 0 }, { kind: 'file', mode: 0, size: content.plain.length, sha256 }, plain);
        assert.equal(content.cut, false, plain);
      } else assert.equal(entry?.kind, 'directory');
    }
  });

  describe('configuration', () => {
    const change = (edit: (value: Record<string, unknown>) => void): string => {
      const value = JSON.parse(configuration) as Record<string, unknown>;
      edit(value);
      return JSON.stringify(value);
    };

    it('refuses another password', () => {
      assert.throws(() => openVolume(configuration, new Secret('0'.repeat(64))), integrity('wrong-key'));
    });

    it('refuses an altered key or salt', () => {
      for (const field of ['EncryptedKey', 'Salt']) {
        const altered = configuration.replace(
          new RegExp(`("${field}": ")(.)`),
          (_, start: string, char: string) => `${start}${char === 'A' ? 'B' : 'A'}`,
        );
        assert.notEqual(altered, configuration);
        assert.throws(() => openVolume(altered, password), integrity('wrong-key'));
      }
    });

    it('refuses every feature that it does not know, and the lack of every one that it needs', () => {
      for (const flag of ['PlaintextNames', 'AESSIV', 'XChaCha20Poly1305', 'FIDO2', 'LongNameMax', 'next']) {
        const more = change((value) => (value['FeatureFlags'] as string[]).push(flag));
        assert.throws(() => openVolume(more, password), integrity('volume-unsupported', new RegExp(flag)));
      }
      for (const flag of ['HKDF', 'GCMIV128', 'DirIV', 'EMENames', 'LongNames', 'Raw64']) {
        const less = change(
          (value) => (value['FeatureFlags'] = (value['FeatureFlags'] as string[]).filter((one) => one !== flag)),
        );
        assert.throws(() => openVolume(less, password), integrity('volume-unsupported', new RegExp(flag)));
      }
      assert.throws(() => openVolume(change((value) => (value['Version'] = 3)), password), integrity('volume-unsupported', /version 3/)); // prettier-ignore
    });

    it('refuses scrypt parameters that would take the memory or the time of this machine', () => {
      for (const [name, value] of [
        ['N', 2 ** 30],
        ['N', 1000],
        ['R', 2 ** 20],
        ['P', 2 ** 20],
      ] as const) {
        const altered = change((whole) => ((whole['ScryptObject'] as Record<string, number>)[name] = value));
        assert.throws(() => openVolume(altered, password), /volume-(unsupported|invalid)|scrypt|not valid/);
      }
    });

    it('refuses what is not a configuration', () => {
      for (const text of [
        '',
        '{}',
        'null',
        '[]',
        configuration.slice(0, 100),
        configuration.replace('"N": 1024', '"N": "1024"'),
      ]) {
        assert.throws(() => openVolume(text, password), integrity('volume-invalid'), text);
      }
    });
  });

  describe('names', () => {
    it('tells apart what lies in a directory', () => {
      const long = `gocryptfs.longname.${'A'.repeat(43)}`;
      assert.deepEqual(classifyName('SiikbIBMjfG6kdd9q3aygA'), { kind: 'name' });
      assert.deepEqual(classifyName(long), { kind: 'long-name', nameFile: `${long}.name` });
      assert.deepEqual(classifyName(`${long}.name`), { kind: 'name-file' });
      for (const own of [
        'gocryptfs.conf',
        'gocryptfs.diriv',
        'gocryptfs.diriv.rmdir.123',
        '.nfs0001',
        'gocryptfs.longname.short',
      ]) {
        assert.deepEqual(classifyName(own), { kind: 'own' });
      }
    });

    it('takes no altered name for the one it was', async () => {
      const iv = await readFile(join(volume, 'gocryptfs.diriv'));
      const name = [...paths.values()].find((path) => !path.includes('/') && classifyName(path).kind === 'name') ?? '';
      const plain = decryptName(keys, iv, name);
      for (let at = 0; at < name.length; at++) {
        const altered = `${name.slice(0, at)}${name[at] === 'x' ? 'y' : 'x'}${name.slice(at + 1)}`;
        let other: Buffer | undefined;
        try {
          other = decryptName(keys, iv, altered);
        } catch (error) {
          integrity('name-unreadable')(error);
        }
        assert.notDeepEqual(other, plain);
      }
    });

    it('refuses what cannot be an encrypted name', async () => {
      const iv = await readFile(join(volume, 'gocryptfs.diriv'));
      for (const name of [
        '',
        'A',
        'AAAA',
        '..',
        '../../etc/passwd',
        'SiikbIBMjfG6kdd9q3ayg!',
        'SiikbIBMjfG6kdd9q3aygB',
        'A'.repeat(4000),
      ]) {
        assert.throws(() => decryptName(keys, iv, name), integrity('name-unreadable'), name);
      }
    });

    // Whoever had the volume's key could write such names; gocryptfs cannot, hence a cipher that says what is asked for.
    it('refuses plain names that would lead elsewhere', () => {
      const says = (bytes: Buffer): VolumeKeys => ({ names: { decrypt: () => bytes } }) as unknown as VolumeKeys;
      const pad = (text: string): Buffer =>
        Buffer.concat([Buffer.from(text), Buffer.alloc(16 - (text.length % 16), 16 - (text.length % 16))]);
      const name = 'A'.repeat(22);
      assert.deepEqual(decryptName(says(pad('good')), Buffer.alloc(16), name), Buffer.from('good'));
      for (const bad of ['', '.', '..', 'a/b', '/etc', 'a\0b', 'x'.repeat(256)]) {
        assert.throws(() => decryptName(says(pad(bad)), Buffer.alloc(16), name), integrity('name-unreadable'), bad);
      }
      assert.throws(() => decryptName(says(Buffer.alloc(16, 17)), Buffer.alloc(16), name), integrity('name-unreadable'));
      assert.throws(() => decryptName(says(Buffer.alloc(16, 0)), Buffer.alloc(16), name), integrity('name-unreadable'));
    });

    it('refuses a long name that is not the one its file is called after', () => {
      const content = Buffer.from('b'.repeat(300));
      const digest = createHash('sha256').update(content).digest('base64url');
      assert.equal(longNameOf(`gocryptfs.longname.${digest}.name`, content), content.toString());
      assert.throws(
        () => longNameOf(`gocryptfs.longname.${digest}.name`, Buffer.from('c'.repeat(300))),
        integrity('name-unreadable'),
      );
    });

    it('says which name cannot be read when its IV or its long name is missing', () => {
      const tree = new VolumeTree(keys);
      assert.throws(() => tree.resolve('AAAA'), integrity('name-unreadable', /AAAA.*no IV/));
      tree.addDirectoryIv('', Buffer.alloc(15));
      assert.throws(() => tree.resolve('AAAA'), integrity('name-unreadable', /no IV/));
      tree.addDirectoryIv('', Buffer.alloc(16));
      assert.throws(
        () => tree.resolve(`gocryptfs.longname.${'A'.repeat(43)}`),
        integrity('name-unreadable', /long name is missing/),
      );
      assert.throws(() => tree.resolve('../AAAA'), integrity('name-unreadable'));
    });
  });

  describe('links', () => {
    it('refuses an altered target', async () => {
      const path = paths.get('links/relative') ?? '';
      const target = await readlink(join(volume, path));
      assert.equal(decryptLink(keys, target).toString(), '../sizes/1');
      for (let at = 0; at < target.length; at += 3) {
        const altered = `${target.slice(0, at)}${target[at] === 'x' ? 'y' : 'x'}${target.slice(at + 1)}`;
        assert.throws(() => decryptLink(keys, altered), integrity('link-unreadable'), altered);
      }
      for (const other of ['', '/etc/passwd', target.slice(0, -1)])
        assert.throws(() => decryptLink(keys, other), integrity('link-unreadable'));
    });
  });

  describe('contents', () => {
    it('come out the same however the bytes arrive', async () => {
      const bytes = await cipherOf('sizes/8192');
      const { plain } = await decrypt(bytes);
      assert.equal(plain.length, 8192);
      for (const size of [1, 17, 18, 19, 4127, 4128, 4129]) assert.deepEqual((await decrypt(bytes, size)).plain, plain);
    });

    it('are kept up to the last whole block when the file was cut, at every place', async () => {
      const bytes = await cipherOf('sizes/8192');
      const { plain } = await decrypt(bytes);
      for (let length = 0; length < bytes.length; length += length < 100 || length % block < 60 ? 1 : 97) {
        const whole = Math.max(0, Math.floor((length - header) / block));
        const atBorder = length === 0 || (length > header && (length - header) % block === 0);
        const result = await decrypt(bytes.subarray(0, length));
        assert.equal(result.plain.length, whole * 4096, `cut at ${length}`);
        assert.deepEqual(result.plain, plain.subarray(0, whole * 4096));
        assert.equal(result.cut, !atBorder, `cut at ${length}`);
      }
    });

    it('are refused when a byte is flipped', async () => {
      const bytes = await cipherOf('sizes/8192');
      for (let at = 0; at < bytes.length; at += at < 60 ? 1 : 331) {
        const altered = Buffer.from(bytes);
        altered[at] = (altered[at] ?? 0) ^ 1;
        await assert.rejects(decrypt(altered), integrity('file-altered', at < 2 ? /header/ : /block [01] /), `byte ${at}`);
      }
    });

    it('lose no more than the last block to a flipped byte in it when that is a short one', async () => {
      const bytes = Buffer.from(await cipherOf('sizes/4097'));
      bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
      const result = await decrypt(bytes);
      assert.equal(result.plain.length, 4096);
      assert.equal(result.cut, true);
    });

    it('are refused when blocks were exchanged, repeated or taken from another file', async () => {
      const bytes = await cipherOf('sizes/8192');
      const other = await cipherOf('sizes/4096');
      const [head, first, second] = [
        bytes.subarray(0, header),
        bytes.subarray(header, header + block),
        bytes.subarray(header + block),
      ];
      for (const parts of [
        [head, second, first],
        [head, first, first],
        [head, other.subarray(header), second],
        [other.subarray(0, header), first],
      ]) {
        await assert.rejects(decrypt(Buffer.concat(parts)), integrity('file-altered'));
      }
    });

    it('of a hole are zeros', async () => {
      const bytes = await cipherOf('sizes/8192');
      bytes.fill(0, header, header + block);
      const { plain } = await decrypt(bytes);
      assert.deepEqual(plain.subarray(0, 4096), Buffer.alloc(4096));
      assert.equal(plain.length, 8192);
    });

    it('are cut where a lost node had not written them yet, and only there', async () => {
      const bytes = await cipherOf('sizes/8192');
      const torn = Buffer.from(bytes);
      torn.fill(0, header + block + 1000);
      assert.deepEqual(await decrypt(torn), { plain: (await decrypt(bytes)).plain.subarray(0, 4096), cut: true });
      const early = Buffer.from(bytes);
      early.fill(0, header + 1000, header + block);
      await assert.rejects(decrypt(early), integrity('file-altered', /block 0/));
      assert.deepEqual(await decrypt(Buffer.alloc(bytes.length)), { plain: Buffer.alloc(0), cut: true });
      const headless = Buffer.from(bytes);
      headless.fill(0, 0, header);
      await assert.rejects(decrypt(headless), integrity('file-altered', /header/));
    });

    it('stop with the reason of a signal', async () => {
      const bytes = await cipherOf('sizes/8192');
      const reason = new Error('enough');
      const stream = decryptContent(keys, pieces(bytes), { signal: AbortSignal.abort(reason) });
      await assert.rejects(stream.next(), reason);
    });
  });

  it('takes one to 128 whole blocks and 16 bytes of tweak for a name', () => {
    const eme = new Eme(new Secret(Buffer.alloc(32)));
    for (const size of [0, 1, 15, 17, 129 * 16]) assert.equal(eme.decrypt(Buffer.alloc(16), Buffer.alloc(size)), undefined);
    assert.equal(eme.decrypt(Buffer.alloc(15), Buffer.alloc(16)), undefined);
    assert.equal(eme.decrypt(Buffer.alloc(16), Buffer.alloc(128 * 16))?.length, 128 * 16);
  });
});

function split(path: string): [directory: string, name: string] {
  const slash = path.lastIndexOf('/');
  return slash < 0 ? ['', path] : [path.slice(0, slash), path.slice(slash + 1)];
}

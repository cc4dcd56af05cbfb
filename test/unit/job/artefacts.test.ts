import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Catalogue } from '../../../src/catalogue.ts';
import { parsePin, readArtefact } from '../../../src/job/artefacts.ts';
import { renderInfoRecord, type InfoRecord } from '../../../src/record.ts';
import { LocalTransport } from '../../support/local-transport.ts';

const digest = 'a'.repeat(128);
const { signal } = new AbortController();

describe('pin of an artefact', () => {
  for (const [named, path, pin] of [
    ['/a.info.yaml', '/a.info.yaml', undefined],
    [`/a.info.yaml#sha512:${digest}`, '/a.info.yaml', digest],
    [`/a.info.yaml#sha512:${digest.toUpperCase()}`, '/a.info.yaml', digest],
    ['/a#b', '/a#b', undefined],
    ['/a#sha256:b', '/a#sha256:b', undefined],
  ] as const) {
    it(`of ${named.slice(0, 30)} is ${pin?.slice(0, 4)}`, () => assert.deepEqual(parsePin(named), { path, pin }));
  }

  it('is a whole SHA-512', () => {
    for (const pin of ['', 'a', digest.slice(1), `${digest}a`, `g${digest.slice(1)}`, ` ${digest}`, `${digest}\n`]) {
      assert.throws(() => parsePin(`/a#sha512:${pin}`), { code: 'bad-pin', exitCode: 2 }, pin);
    }
  });

  it('stands behind an absolute path', () => {
    for (const named of ['a.info.yaml', '~/a.info.yaml', '', `#sha512:${digest}`, '-rf'])
      assert.throws(() => parsePin(named), { code: 'bad-path', exitCode: 2 }, named);
  });
});

describe('artefact named at submission', () => {
  let directory: string;
  let infoPath: string;
  let info: InfoRecord;
  let catalogue: Catalogue;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-artefact-'));
    infoPath = join(directory, 'data.tgz.info.yaml');
    await writeFile(join(directory, 'data.tgz'), 'sealed');
    info = {
      path_at_rest: join(directory, 'data.tgz'),
      secret_path: 'client_1a2b3c4d5/data-0',
      access_role: 'client_1a2b3c4d5-data-0',
      checksum: createHash('sha512').update('sealed').digest('hex'),
      spiffeID: 'spiffe://example.org/c/1a2b3c4d5/s/data-0',
      format: 'openpgp',
      kind: 'data',
      artefact: '1'.repeat(32),
      size: 6,
      nodes: ['nid1'],
    };
    await publish(info);
    catalogue = new Catalogue(join(directory, 'state'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  const publish = (changed: InfoRecord) => writeFile(infoPath, renderInfoRecord(changed));
  const read = (named = infoPath, kind: 'image' | 'data' = 'data', allowLegacy = false) =>
    readArtefact(new LocalTransport(), kind, named, { catalogue, site: 'lumi', allowLegacy, signal });
  const remember = (changes: object = {}) =>
    catalogue.add({
      site: 'lumi',
      info: infoPath,
      artefact: '1'.repeat(32),
      secretPath: info.secret_path,
      sha512: info.checksum,
      created: '2026-01-01T00:00:00Z',
      ...changes,
    });

  it('is read and held against the file beside it', async () => {
    const { kind, info: found, planned } = await read();
    assert.deepEqual([kind, found], ['data', info]);
    assert.deepEqual(planned, {
      path: info.path_at_rest,
      secretPath: info.secret_path,
      role: info.access_role,
      spiffeId: info.spiffeID,
      format: 'openpgp',
      sha512: info.checksum,
      artefact: info.artefact,
      size: 6,
    });
  });

  it('may be one of the original, which tells less, where that is allowed', async () => {
    const { kind: _kind, artefact: _artefact, size: _size, nodes: _nodes, ...original } = info;
    await writeFile(infoPath, renderInfoRecord({ ...original, format: 'age' }).replace(/\n {2}format: age/, ''));
    await assert.rejects(read(), { code: 'legacy-artefact', exitCode: 2, suggestion: /--allow-legacy-image$/ });
    const { original: told, planned } = await read(infoPath, 'data', true);
    assert.deepEqual([told, planned.format, planned.legacy, planned.size], [true, 'age', true, 6]);
    assert.equal('artefact' in planned, false);
    await writeFile(info.path_at_rest, 'SEALED');
    await assert.rejects(read(infoPath, 'data', true), { code: 'artefact-altered' });
  });

  it('of ours is none of the original, whatever is allowed', async () => {
    const { original: told, planned } = await read(infoPath, 'data', true);
    assert.deepEqual([told, planned.legacy], [false, undefined]);
  });

  it('is refused when its file was altered, swapped for another, or is gone', async () => {
    await writeFile(info.path_at_rest, 'SEALED');
    await assert.rejects(read(), { code: 'artefact-altered', exitCode: 7, message: /its SHA-512 differs$/ });
    await appendFile(info.path_at_rest, 'more');
    await assert.rejects(read(), { code: 'artefact-altered', message: /it has 10 bytes, not 6$/ });
    await rm(info.path_at_rest);
    await assert.rejects(read(), { code: 'artefact-missing', exitCode: 5 });
  });

  it('is refused as the other kind', async () => {
    await assert.rejects(read(infoPath, 'image'), { code: 'artefact-swapped', exitCode: 7 });
  });

  it('is refused when it is not the one that was pinned', async () => {
    await read(`${infoPath}#sha512:${info.checksum}`);
    await assert.rejects(read(`${infoPath}#sha512:${digest}`), {
      code: 'pin-mismatch',
      exitCode: 7,
      suggestion: /prepare the data again$/,
    });
  });

  describe('that was published from here', () => {
    it('is the one that is remembered', async () => {
      await remember();
      await read();
    });

    it('is refused when the site shows an earlier one, or another secret for it', async () => {
      await remember();
      await remember({ artefact: '2'.repeat(32), sha512: digest, created: '2026-01-02T00:00:00Z' });
      await assert.rejects(read(), { code: 'artefact-rolled-back', exitCode: 7, suggestion: /#sha512:/ });
      await assert.rejects(read(infoPath.replace('/data.tgz', '/./data.tgz')), { code: 'artefact-rolled-back' });
    });

    it('is refused with another secret, and so it is where its digest is given', async () => {
      await remember({ secretPath: 'client_1a2b3c4d5/other' });
      for (const named of [infoPath, `${infoPath}#sha512:${info.checksum}`])
        await assert.rejects(read(named), { code: 'artefact-repointed', exitCode: 7 });
    });

    it('may be an earlier one where that is said', async () => {
      await remember({ sha512: digest });
      await read(`${infoPath}#sha512:${info.checksum}`);
    });
  });

  it('is refused when its info record is missing, too long or not one', async () => {
    await writeFile(infoPath, 'x'.repeat(70_000));
    await assert.rejects(read(), { code: 'site-file-too-long', exitCode: 5 });
    await writeFile(infoPath, 'x');
    await assert.rejects(read(), { code: 'info-record-invalid', exitCode: 7 });
    await rm(infoPath);
    await assert.rejects(read(), { exitCode: 5 });
  });
});

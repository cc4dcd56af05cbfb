import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Catalogue, type CatalogueEntry } from '../../src/catalogue.ts';

function entry(digit: string, changes: Partial<CatalogueEntry> = {}): CatalogueEntry {
  return {
    site: 'lumi',
    info: '/scratch/data.tgz.info.yaml',
    artefact: digit.repeat(32),
    secretPath: `client_1a2b3c4d5/data-${digit}`,
    sha512: digit.repeat(128),
    created: `2026-01-0${digit}T00:00:00.000Z`,
    ...changes,
  };
}

describe('catalogue', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-catalogue-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  it('knows nothing at first', async () => {
    assert.equal(await new Catalogue(directory).newest('lumi', '/x'), undefined);
  });

  it('tells the newest artefact of an info record, in whatever order they were added', async () => {
    const catalogue = new Catalogue(directory);
    for (const digit of ['2', '3', '1']) await catalogue.add(entry(digit));
    assert.deepEqual(await new Catalogue(directory).newest('lumi', '/scratch/data.tgz.info.yaml'), entry('3'));
  });

  it('keeps sites and info records apart', async () => {
    const catalogue = new Catalogue(directory);
    await catalogue.add(entry('1'));
    await catalogue.add(entry('2', { site: 'puhti' }));
    await catalogue.add(entry('3', { info: '/scratch/image.sif.info.yaml' }));
    assert.equal((await catalogue.newest('lumi', '/scratch/data.tgz.info.yaml'))?.artefact, '1'.repeat(32));
    assert.equal(await catalogue.newest('mahti', '/scratch/data.tgz.info.yaml'), undefined);
  });

  it('knows an info record under each way to write its path', async () => {
    const catalogue = new Catalogue(directory);
    await catalogue.add(entry('1', { info: '/scratch//data.tgz.info.yaml' }));
    for (const path of ['/scratch/data.tgz.info.yaml', '//scratch/./data.tgz.info.yaml', '/scratch/a/../data.tgz.info.yaml']) {
      assert.equal((await catalogue.newest('lumi', path))?.artefact, '1'.repeat(32), path);
    }
  });

  it('forgets nothing when stages add at once', async () => {
    const digits = ['1', '2', '3', '4', '5', '6', '7', '8', '9'];
    await Promise.all(digits.map((digit) => new Catalogue(directory).add(entry(digit, { info: `/${digit}` }))));
    for (const digit of digits)
      assert.equal((await new Catalogue(directory).newest('lumi', `/${digit}`))?.artefact, digit.repeat(32));
  });

  it('names no file after anything but an artefact id', async () => {
    await assert.rejects(new Catalogue(directory).add(entry('1', { artefact: '../../x' })));
  });
});

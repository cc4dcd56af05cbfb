import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sifHeader } from '../../../src/image/sif-header.ts';
import { checkImageConfig } from '../../../src/node/image-config.ts';
import type { ImageConfig } from '../../../src/record.ts';
import { failsWith } from '../../support/streams.ts';

const config: ImageConfig = {
  entrypoint: ['/app'],
  cmd: ['--default'],
  env: ['PATH=/bin'],
  workdir: '/work',
  user: '',
  digest: 'sha256:ab',
  platform: 'linux/amd64',
};

describe('how an image is run, by the image and by the vault', () => {
  let directory: string;
  let sif: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-image-config-'));
    sif = join(directory, 'app.sif');
  });
  after(() => rm(directory, { recursive: true }));

  const write = async (text: string, configSize = Buffer.byteLength(text)): Promise<void> => {
    const header = sifHeader({ size: 8, configSize, architecture: 'amd64', created: new Date() });
    await writeFile(sif, Buffer.concat([header, Buffer.alloc(8), Buffer.from(text)]));
  };

  it('may be said in another order', async () => {
    await write(JSON.stringify(config));
    await checkImageConfig(sif, Object.fromEntries(Object.entries(config).toReversed()) as ImageConfig);
  });

  for (const [field, value] of [
    ['entrypoint', ['/bin/sh', '-c', 'cat']],
    ['cmd', []],
    ['env', ['PATH=/bin', 'LD_PRELOAD=/x']],
    ['workdir', '/'],
    ['user', 'root'],
    ['digest', 'sha256:cd'],
    ['platform', 'linux/arm64'],
  ] as const) {
    it(`is refused where the vault says another ${field}`, async () => {
      await write(JSON.stringify(config));
      await assert.rejects(checkImageConfig(sif, { ...config, [field]: value }), failsWith('integrity', 'record-mismatch'));
    });
  }

  for (const [what, text, size] of [
    ['says nothing', '', undefined],
    ['says something else', '{"entrypoint": "/app"}', undefined],
    ['says no JSON', '{', undefined],
    ['ends within it', JSON.stringify(config).slice(0, -5), 1_000_000],
    ['says too much', JSON.stringify(config), 2 ** 40],
  ] as const) {
    it(`is refused where the image ${what}`, async () => {
      await write(text, size);
      await assert.rejects(checkImageConfig(sif, config), failsWith('integrity', 'image-unbound'));
    });
  }

  it('is refused where the image is none of ours', async () => {
    await writeFile(sif, 'not a SIF');
    await assert.rejects(checkImageConfig(sif, config), failsWith('integrity', 'image-unbound'));
  });
});

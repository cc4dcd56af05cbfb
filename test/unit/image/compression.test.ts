import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compressionProbe, fittingCompression, siteCompression } from '../../../src/image/compression.ts';
import { LocalTransport } from '../../support/local-transport.ts';

describe('the compression that fits a site', () => {
  for (const [facts, expected] of [
    ['kernel 6.12.0-55.el10\nprogram apptainer version 1.4.5\nconfig CONFIG_SQUASHFS_ZSTD=y\n', 'zstd'],
    ['kernel 4.18.0-553.el8_10.x86_64\nprogram singularity-ce version 4.1.2\n', 'zstd'],
    ['kernel 5.14.21-150500.55\n', 'zstd'],
    ['kernel 3.10.0-1160.el7.x86_64\nprogram apptainer version 1.3.0\n', 'gzip'],
    ['kernel 4.13.9\n', 'gzip'],
    ['kernel 5.10.0\nconfig # CONFIG_SQUASHFS_ZSTD is not set\n', 'gzip'],
    ['kernel 5.10.0\nprogram singularity version 3.6.4\n', 'gzip'],
    ['kernel 5.10.0\nprogram singularity-ce version 3.8.0\n', 'zstd'],
    ['', 'gzip'],
  ] as const) {
    it(`${expected} for ${facts.replaceAll('\n', ' ') || 'a site that says nothing'}`, () => {
      assert.equal(fittingCompression(facts), expected);
    });
  }

  it('is asked of a real shell without words on standard error', () => {
    const facts = execFileSync('/bin/sh', ['-c', `exec 2>&1\n${compressionProbe('apptainer')}`], { encoding: 'utf8' });
    assert.match(facts, /^kernel \d+\.\d+.*\n(program .*\n)?(config .*\n)?$/);
  });

  it('is asked of the program that is configured, wherever it lies', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'compression-'));
    try {
      const program = join(directory, "it's apptainer");
      for (const [version, expected] of [
        ['singularity version 3.5.0', 'gzip'],
        ['apptainer version 1.4.5', 'zstd'],
      ] as const) {
        await writeFile(program, `#!/bin/sh\n[ "$1" = --version ] && echo '${version}'\n`, { mode: 0o755 });
        assert.equal(await siteCompression(new LocalTransport(), program), expected);
      }
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

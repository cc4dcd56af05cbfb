import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { outside } from '../../../src/node/outside.ts';
import { scriptCases } from '../../support/script-cases.ts';

describe('a job on its node', () => {
  let directory: string;
  const names = ['HPCS_PRIVATE', 'SLURM_JOB_ID', 'SLURMD_NODENAME', 'SLURM_RESTART_COUNT'];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-outside-'));
    for (const place of ['private', 'work']) await mkdir(join(directory, place));
    Object.assign(process.env, { HPCS_PRIVATE: join(directory, 'private'), SLURM_JOB_ID: '7', SLURMD_NODENAME: 'nid1' });
  });
  afterEach(async () => {
    for (const name of names) Reflect.deleteProperty(process.env, name);
    await rm(directory, { recursive: true });
  });

  it('is not run a second time, though the scheduler starts it again', async () => {
    process.env['SLURM_RESTART_COUNT'] = '1';
    const plan = { ...scriptCases.plain.plan, workdir: join(directory, 'work') };
    const context = { signal: new AbortController().signal, progress: () => {} };
    await assert.rejects(outside(plan, context), { code: 'job-requeued', exitCode: 6 });
    // Nothing was made, and what the script made is gone.
    assert.deepEqual(await readdir(join(directory, 'work')), []);
    assert.equal(existsSync(join(directory, 'private')), false);
  });

  it('gets no keys for an artefact of another size', async () => {
    const path = join(directory, 'image.sif');
    await writeFile(path, 'short');
    const { plan } = scriptCases.plain;
    const altered = { ...plan, workdir: join(directory, 'work'), image: { ...plan.image, path } };
    const context = { signal: new AbortController().signal, progress: () => {} };
    await assert.rejects(outside(altered, context), {
      code: 'artefact-altered',
      message: /has 5 bytes, not the 1048576 of its record$/,
      suggestion: 'prepare it again, and tell the site',
    });
  });
});

import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse, stringify } from 'yaml';
import { z } from 'zod';
import { alterByte } from '../support/alter.ts';
import { openJob, prepareData, prepareImage, probe, resultText, runJob, type Prepared } from '../support/jobs.ts';
import { originalData, originalImage } from '../support/original.ts';
import { Site } from '../support/site.ts';

const flag = '--allow-legacy-image';
const on = ['-w', 'nid000001'];

describe('artefacts that the original prepared', function () {
  this.timeout(300_000);
  let site: Site;
  let image: Prepared;
  let data: Prepared;
  let ours: { image: Prepared; data: Prepared };

  before(async () => {
    site = await Site.open({ legacy: true });
    await site.image('hpcs-test/probe', {
      Dockerfile: 'FROM debian:bookworm-slim\nCOPY probe /probe\nENTRYPOINT ["/probe"]\nCMD ["default"]\n',
      probe,
    });
    await mkdir(join(site.temporary, 'input'));
    await writeFile(join(site.temporary, 'input', 'hello.txt'), 'hello from us\n');
    ours = {
      image: await prepareImage(site, 'hpcs-test/probe'),
      data: await prepareData(site, join(site.temporary, 'input')),
    };
    // The original has one secret name for all that is shipped under a name.
    const now = Date.now();
    image = await originalImage(site, `encrypted_prepared_probe_${now}.sif`, probe);
    data = await originalData(site, `encrypted_input_${now}.tgz`, 'input', { 'hello.txt': 'hello from the original\n' });
  });

  after(async () => {
    await site[Symbol.asyncDispose]();
  });

  it('are refused unless that is allowed', async () => {
    for (const [application, input] of [
      [image, ours.data],
      [ours.image, data],
    ] as const) {
      const exit = await runJob(site, application, input, on);
      assert.equal(exit.code, 2, exit.stderr);
      assert.match(exit.stderr, /prepared: the vault does not say what its bytes must be\n.*with --allow-legacy-image\n$/);
    }
  });

  it('run together, without a token in the container, and with a word on what is not checked', async () => {
    const job = await runJob(site, image, data, [...on, flag, '--', 'where']);
    assert.equal(job.code, 0, job.stderr);
    for (const kind of ['image', 'data'])
      assert.match(
        job.stderr,
        new RegExp(`^warning: the ${kind} was prepared by the original HPCS: the vault holds no digest`, 'm'),
      );
    assert.match(job.stderr, /^warning: the input and output logic in the image is not run/m);
    const results = await openJob(site, job.jobId);
    assert.equal(await resultText(results, 'exit_code'), '0\n');
    assert.doesNotMatch(await resultText(results, 'env'), /data_login|data_path|vault|jwt/i);
    assert.equal(await resultText(results, 'image.log'), 'input script of the image\noutput script of the image\n');
    assert.equal(await resultText(results, 'stderr'), '');
  });

  it('run with artefacts of ours', async () => {
    for (const [application, input, hello] of [
      [image, ours.data, 'hello from us\n'],
      [ours.image, data, 'hello from the original\n'],
    ] as const) {
      const job = await runJob(site, application, input, [...on, flag, '--', 'list']);
      assert.equal(job.code, 0, job.stderr);
      assert.equal(await resultText(await openJob(site, job.jobId), 'data/input/hello.txt'), hello);
    }
  });

  it('give the application its arguments, and keep its output and its exit code', async () => {
    const job = await runJob(site, image, data, [...on, flag, '--', 'one', 'two']);
    assert.equal(job.code, 0, job.stderr);
    assert.equal(await resultText(await openJob(site, job.jobId), 'stdout'), 'hello from /application: one two\n');
    const failing = await runJob(site, image, data, [...on, flag, '--', 'exit', '3']);
    assert.equal(failing.code, 3, failing.stderr);
  });

  it('obey the supplementary scripts', async () => {
    const scripts = async (name: string, content: string): Promise<string> => {
      const directory = `${site.scratch}/${name}`;
      await site.run(`mkdir -p ${directory}; cat > ${directory}/check.sh <<'END'\n#!/bin/sh\n${content}\nEND\n`);
      return directory;
    };
    const seen = 'cat /sd-container/encrypted/input/hello.txt > /sd-container/output/seen';
    const judged = 'cat /sd-container/output/exit_code > /sd-container/output/judged';
    const job = await runJob(site, image, data, [
      ...on,
      flag,
      '-i',
      await scripts('see', seen),
      '-o',
      await scripts('judge', judged),
    ]);
    assert.equal(job.code, 0, job.stderr);
    const results = await openJob(site, job.jobId);
    assert.equal(await resultText(results, 'seen'), 'hello from the original\n');
    assert.equal(await resultText(results, 'judged'), '0\n');
    const withheld = await runJob(site, image, data, [...on, flag, '-o', await scripts('refuse', 'exit 5')]);
    assert.equal(withheld.code, 6, withheld.stderr);
    assert.match(withheld.stderr, /output-script-failed/);
  });

  it('are what their info records say', async () => {
    const path = data.info.replace('.info.yaml', '');
    await site.run(`cp ${path} ${path}.good`);
    await alterByte(site, path, 300);
    const exit = await runJob(site, image, data, [...on, flag]);
    await site.run(`mv -f ${path}.good ${path}`);
    assert.equal(exit.code, 7, exit.stderr);
    assert.match(exit.stderr, /its SHA-512 differs/);
  });

  it('are no guise for ours: an info record from which fields were removed is held against the vault', async () => {
    const infoFile = z.object({ info: z.record(z.string(), z.unknown()) });
    const { info } = infoFile.parse(parse((await site.run(`cat ${ours.data.info}`)).stdout));
    const kept = ['path_at_rest', 'secret_path', 'access_role', 'checksum', 'spiffeID'];
    const stripped = Object.fromEntries(Object.entries(info).filter(([field]) => kept.includes(field)));
    const guise = `${site.scratch}/guise.info.yaml`;
    await site.run(`cat > ${guise} <<'END'\n${stringify({ info: stripped })}END\n`);
    const exit = await runJob(site, image, { info: guise }, [...on, flag]);
    assert.equal(exit.code, 7, exit.stderr);
    assert.match(exit.stderr, /hpcs: error: record-mismatch: .* its format was age at submission, the vault says openpgp/);
  });
});

import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { readPrivateKey } from 'openpgp';
import { parse, stringify } from 'yaml';
import { z } from 'zod';
import { alterByte } from '../support/alter.ts';
import { jobArguments, openJob, prepareData, prepareImage, probe, runJob, type Prepared } from '../support/jobs.ts';
import { pack } from '../../src/pack/pack.ts';
import { renderInfoRecord } from '../../src/record.ts';
import { seal } from '../../src/seal/seal.ts';
import { Site } from '../support/site.ts';
import { VaultOwner } from '../support/owner.ts';
import { infoRecord, vaultRecord } from '../support/vault.ts';
import type { CliExit } from '../support/cli.ts';

const infoFile = z.object({ info: z.record(z.string(), z.unknown()) });

/** Code of the error that a command ended with under `--json`. */
function errorCode(exit: CliExit): string {
  const text = exit.stdout.slice(exit.stdout.indexOf('{'));
  return z.object({ error: z.object({ code: z.string() }) }).parse(JSON.parse(text)).error.code;
}

describe('a site that tampers', function () {
  this.timeout(300_000);
  let site: Site;
  let image: Prepared;
  let data: Prepared;
  let other: Prepared;

  before(async () => {
    site = await Site.open();
    await site.image('hpcs-test/probe', {
      Dockerfile: 'FROM debian:bookworm-slim\nCOPY probe /probe\nENTRYPOINT ["/probe"]\nCMD ["default"]\n',
      probe,
    });
    image = await prepareImage(site, 'hpcs-test/probe');
    for (const name of ['one', 'two']) {
      await mkdir(join(site.temporary, name));
      await writeFile(join(site.temporary, name, 'content'), name);
    }
    data = await prepareData(site, join(site.temporary, 'one'), { name: 'one.tgz' });
    other = await prepareData(site, join(site.temporary, 'two'), { name: 'two.tgz' });
  });

  after(async () => {
    await site[Symbol.asyncDispose]();
  });

  const submit = (extra: readonly string[] = [], env: Record<string, string> = {}): Promise<CliExit> =>
    site.hpcs(['job-prep', '--json', ...jobArguments(site, image, data, extra).slice(1)], { env });

  /** Submits while nothing is started, tampers, and lets the job start. */
  const submitThen = async (
    tamper: () => Promise<unknown>,
    extra: readonly string[] = [],
    input: Prepared = data,
  ): Promise<CliExit> => {
    await site.run('scontrol update PartitionName=standard State=DOWN', 'root');
    let tampered: Promise<unknown> | undefined;
    try {
      return await site.hpcs(jobArguments(site, image, input, extra.length > 0 ? extra : ['--', 'args', 'ran']), {
        onStderr: (text) => {
          if (tampered !== undefined || !text.includes('submitting to')) return;
          tampered = (async () => {
            while ((await site.run('squeue -h -t PD -u alice')).stdout === '')
              await new Promise((resolve) => setTimeout(resolve, 200));
            await tamper();
            await site.run('scontrol update PartitionName=standard State=UP', 'root');
          })();
        },
      });
    } finally {
      await tampered;
      await site.run('scontrol update PartitionName=standard State=UP', 'root');
    }
  };

  const refusedInJob = (exit: CliExit, code: string): void => {
    assert.equal(exit.code, 7, exit.stderr);
    assert.ok(exit.stderr.includes(`hpcs: error: ${code}:`), exit.stderr);
    assert.doesNotMatch(exit.stderr, /application: starting/);
  };

  describe('before submission is found out', () => {
    it('having swapped two artefacts', async () => {
      const swap = `cd ${site.scratch} && mv one.tgz x && mv two.tgz one.tgz && mv x two.tgz`;
      await site.run(swap);
      const exit = await submit();
      await site.run(swap);
      assert.equal(errorCode(exit), 'artefact-altered', exit.stderr);
      assert.equal(exit.code, 7);
    });

    it('having exchanged the info records of image and data', async () => {
      const exit = await site.hpcs(['job-prep', '--json', ...jobArguments(site, data, image).slice(1)]);
      assert.equal(errorCode(exit), 'artefact-swapped', exit.stderr);
    });

    it('having rolled an artefact back', async () => {
      const old = (await site.run(`cat ${data.info}`)).stdout;
      await prepareData(site, join(site.temporary, 'one'), { name: 'one.tgz' });
      const fresh = (await site.run(`cat ${data.info}`)).stdout;
      assert.notEqual(old, fresh);
      await site.run(`cat > ${data.info} <<'END'\n${old}END\n`);
      const exit = await submit();
      assert.equal(errorCode(exit), 'artefact-rolled-back', exit.stderr);
      await site.run(`cat > ${data.info} <<'END'\n${fresh}END\n`);
    });
  });

  describe('with a field of an info record is found out, even by a client that published nothing itself', () => {
    const foreign = (): Record<string, string> => ({ HPCS_STATE_DIR: join(site.temporary, 'foreign') });
    const fields: [field: string, change: (value: unknown, other: Record<string, unknown>) => unknown][] = [
      ['path_at_rest', (_, two) => two['path_at_rest']],
      ['secret_path', (_, two) => two['secret_path']],
      ['access_role', (_, two) => two['access_role']],
      ['spiffeID', (_, two) => two['spiffeID']],
      ['checksum', (value) => String(value).replace(/^./, (first) => (first === '0' ? '1' : '0'))],
      ['format', () => 'age'],
      ['kind', () => 'image'],
      ['artefact', () => '0'.repeat(32)],
      ['size', (value) => Number(value) + 1],
      ['nodes', () => ['nid000002']],
    ];
    for (const [field, change] of fields) {
      it(field, async () => {
        const original = (await site.run(`cat ${data.info}`)).stdout;
        const two = infoFile.parse(parse((await site.run(`cat ${other.info}`)).stdout)).info;
        const altered = infoFile.parse(parse(original)).info;
        altered[field] = change(altered[field], two);
        await site.run(`cat > ${data.info} <<'END'\n${stringify({ info: altered })}END\n`);
        try {
          const exit = await submit(['-w', 'nid000001'], foreign());
          assert.notEqual(exit.code, 0, exit.stderr);
          assert.notEqual(exit.code, 1, exit.stderr);
          assert.doesNotMatch(exit.stderr, /application: starting/);
          assert.match(exit.stderr, /hpcs: error: /);
        } finally {
          await site.run(`cat > ${data.info} <<'END'\n${original}END\n`);
        }
      });
    }
  });

  it('with data forged by somebody who can read its key is found out', async () => {
    const info = await infoRecord(site, data.info);
    const { key } = await vaultRecord(site, info);
    const forger = (await readPrivateKey({ armoredKey: key })).toPublic().armor();
    const forged = seal(pack(join(site.temporary, 'two')), { format: 'openpgp', recipients: [forger] });
    const bytes = await buffer(forged.bytes);
    const { sha512, size } = await forged.summary;
    const original = (await site.run(`cat ${data.info}`)).stdout;
    await site.run(
      `cp ${info.path_at_rest} ${info.path_at_rest}.good; chmod u+w ${info.path_at_rest}; echo ${bytes.toString('base64')} | base64 -d > ${info.path_at_rest}`,
    );
    await site.run(`cat > ${data.info} <<'END'\n${renderInfoRecord({ ...info, checksum: sha512, size })}END\n`);
    try {
      // A client that never published it has nothing to compare the info record with but the vault.
      const exit = await site.hpcs(jobArguments(site, image, data), { env: { HPCS_STATE_DIR: join(site.temporary, 'foreign') } });
      refusedInJob(exit, 'record-mismatch');
    } finally {
      await site.run(`mv -f ${info.path_at_rest}.good ${info.path_at_rest}; cat > ${data.info} <<'END'\n${original}END\n`);
    }
  });

  // Who made an image may write its record, and who can read its key may write another one: whoever bound a grant to the image's digest has
  // bound what is run.
  it('with how an image is run, in the vault, is found out', async () => {
    const info = await infoRecord(site, image.info);
    const record = await vaultRecord(site, info);
    await using owner = await VaultOwner.open(site);
    const write = (data: object) => owner.ask('POST', `kv/data/${info.secret_path}`, { data });
    const config = record.image ?? assert.fail('no image');
    await write({
      ...record,
      image: { ...config, entrypoint: ['/bin/sh', '-c', 'cp -r /sd-container/encrypted /sd-container/output'] },
    });
    try {
      const pinned = { info: `${image.info}#sha512:${info.checksum}` };
      refusedInJob(await site.hpcs(jobArguments(site, pinned, data)), 'record-mismatch');
    } finally {
      await write(record);
    }
  });

  describe('after submission is found out', () => {
    it('having altered the data', async () => {
      const path = String(infoFile.parse(parse((await site.run(`cat ${data.info}`)).stdout)).info['path_at_rest']);
      await site.run(`cp ${path} ${path}.good`);
      const exit = await submitThen(() => alterByte(site, path, 200));
      await site.run(`mv -f ${path}.good ${path}`);
      assert.equal(exit.code, 7, exit.stderr);
      assert.match(exit.stderr, /hpcs: error: (corrupt|artefact-altered):/);
      assert.doesNotMatch(exit.stderr, /application: starting/);
    });

    it('having altered data that can be checked only at its end, and is told nothing of what came of it', async () => {
      const gpg = await prepareData(site, join(site.temporary, 'one'), { name: 'gpg.tgz', format: 'openpgp-gpg' });
      const { path_at_rest: path } = await infoRecord(site, gpg.info);
      // The first tar header: what unpacking says of it could hold a part of the content.
      const exit = await submitThen(() => alterByte(site, path, 200), [], gpg);
      refusedInJob(exit, 'artefact-altered');
      assert.match(exit.stderr, /gpg\.tgz could not be decrypted: it is not what was published, or there is no room for it$/m);
    });

    it('having altered the tool kit', async () => {
      const kit = '/scratch/project_462000031/alice/.hpcs/hpcs-tool-kit-*.tar.gz';
      const exit = await submitThen(() => alterByte(site, kit, 1000));
      assert.equal(exit.code, 7, exit.stderr);
      assert.match(exit.stderr, /tool-kit-altered/);
    });

    it('having altered a supplementary script', async () => {
      const directory = `${site.scratch}/scripts`;
      await site.run(`mkdir -p ${directory}; printf '#!/bin/sh\\nexit 0\\n' > ${directory}/check.sh`);
      const exit = await submitThen(
        () => site.run(`echo 'cp -r /sd-container/encrypted /scratch' >> ${directory}/check.sh`),
        ['-i', directory],
      );
      refusedInJob(exit, 'script-altered');
    });
  });

  describe('after submission is found out, with scripts of the submitter', () => {
    let scripts: string;
    const sealed = (): string => `${site.scratch}/.hpcs/*.input-scripts`;

    before(async () => {
      scripts = join(site.temporary, 'scripts');
      await mkdir(scripts);
      await writeFile(join(scripts, 'check.sh'), '#!/bin/sh\nexit 0\n');
    });

    for (const [what, tamper] of [
      ['having altered them', () => alterByte(site, sealed(), 300)],
      ['having removed them', () => site.run(`rm -f ${sealed()}`)],
    ] as const) {
      it(what, async () => {
        const exit = await submitThen(tamper, ['-i', `local:${scripts}`]);
        refusedInJob(exit, 'script-altered');
        await site.run(`rm -f ${sealed()}`);
      });
    }
  });

  describe('with results is found out', () => {
    it('having altered the manifest, or the sealed file', async () => {
      const job = await runJob(site, image, data, ['--', 'args', 'x']);
      assert.equal(job.code, 0, job.stderr);
      const directory = `${site.scratch}/test-${job.jobId}`;
      const results = (): Promise<CliExit> =>
        site.hpcs(['job', 'results', '--json', job.jobId, '--output', join(site.temporary, 'altered')]);

      await site.run(
        `cp ${directory}/manifest.json ${directory}/m; sed -i 's/exitCode\\\\":0/exitCode\\\\":1/' ${directory}/manifest.json`,
      );
      assert.notEqual((await site.run(`cmp ${directory}/m ${directory}/manifest.json`)).code, 0);
      assert.equal(errorCode(await results()), 'manifest-forged');
      await site.run(`mv ${directory}/m ${directory}/manifest.json`);

      const sealed = `${directory}/encrypted_output.tgz`;
      await site.run(`cp ${sealed} ${directory}/e`);
      await alterByte(site, sealed, '$(stat -c %s "$file") - 60');
      assert.ok(['corrupt', 'results-altered'].includes(errorCode(await results())));
      await site.run(`mv ${directory}/e ${sealed}`);
      assert.equal(await readFile(join(await openJob(site, job.jobId), 'args'), 'utf8'), 'x\0');
    });
  });
});

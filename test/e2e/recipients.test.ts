import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as openpgp from 'openpgp';
import { generateKey } from '../../src/seal/keys.ts';
import { jobArguments, openJob, prepareData, prepareImage, probe, resultText, runJob, type Prepared } from '../support/jobs.ts';
import { buildPeers, inPeers } from '../support/peers.ts';
import { Site } from '../support/site.ts';
import { infoRecord, vaultRecord } from '../support/vault.ts';

describe('owner recipients on real parts', function () {
  this.timeout(300_000);
  let site: Site;
  let image: Prepared;
  let ownerKey: string;
  let fingerprint: string;
  /** A configuration that names the owner. */
  let configuration: string;

  before(async () => {
    site = await Site.open();
    await buildPeers();
    const owner = await openpgp.generateKey({ userIDs: [{ name: 'Olga Owner' }], type: 'ecc', curve: 'curve25519Legacy' });
    fingerprint = (await openpgp.readKey({ armoredKey: owner.publicKey })).getFingerprint().toUpperCase();
    ownerKey = join(site.temporary, 'owner.key');
    await writeFile(ownerKey, owner.privateKey, { mode: 0o600 });
    await writeFile(join(site.temporary, 'owner.cert'), owner.publicKey);
    configuration = join(site.temporary, 'hpcs-client.conf');
    const text = await readFile(site.configuration, 'utf8');
    await writeFile(configuration, text.replace('[client]\n', `[client]\nrecipient = ${join(site.temporary, 'owner.cert')}\n`));
    await site.image('hpcs-test/probe', {
      Dockerfile: 'FROM debian:bookworm-slim\nCOPY probe /probe\nENTRYPOINT ["/probe"]\nCMD ["default"]\n',
      probe,
    });
    await mkdir(join(site.temporary, 'input'));
    await writeFile(join(site.temporary, 'input', 'hello.txt'), 'hello\n');
  });
  after(async () => {
    await site[Symbol.asyncDispose]();
  });

  /** Opens a file of the site with the owner's key alone: no state directory, no vault, no configuration. */
  async function openAsOwner(path: string, name: string): Promise<string> {
    const { stdout } = await site.run(`base64 -w 0 ${path}`);
    const sealed = join(site.temporary, name);
    await writeFile(sealed, Buffer.from(stdout, 'base64'));
    const output = join(site.temporary, `opened-${name}`);
    await site.hpcsOk(['open', sealed, '--key', ownerKey, '--output', output], { env: { HPCS_CONFIG: '/nonexistent' } });
    return output;
  }

  for (const format of ['openpgp', 'openpgp-gpg'] as const) {
    it(`open data and results without vault and state directory: ${format}`, async () => {
      image = await prepareImage(site, 'hpcs-test/probe', { name: `${format}.sif`, format });
      const recipient = ['--recipient', join(site.temporary, 'owner.cert'), '--format', format];
      const reach = ['-u', 'alice', '-c', 'nid000001', '--data-path', `${format}.tgz`, '--data-path-at-rest', site.scratch];
      const prepared = await site.hpcsOk(['data-prep', '-i', join(site.temporary, 'input'), ...reach, ...recipient]);
      assert.ok(prepared.stderr.includes(`recipient: ${fingerprint} Olga Owner\n`), prepared.stderr);
      assert.equal(prepared.stderr.includes('may not open this format'), format === 'openpgp');
      const data = { info: `${site.scratch}/${format}.tgz.info.yaml` };
      const info = await infoRecord(site, data.info);
      assert.equal(info.format, format);
      const record = await vaultRecord(site, info);
      assert.deepEqual(record.recipients, [fingerprint]);
      assert.equal(record.format, format);
      assert.equal(await readFile(join(await openAsOwner(info.path_at_rest, `${format}.tgz`), 'input/hello.txt'), 'utf8'), 'hello\n'); // prettier-ignore

      // The owner of the configuration goes into the results.
      const job = await site.hpcsOk([...jobArguments(site, image, data, ['--format', format, '--', 'args', 'ran']), ], { env: { HPCS_CONFIG: configuration } }); // prettier-ignore
      const jobId = /submitted job (\d+)/.exec(job.stdout)?.[1] ?? '';
      assert.equal(await resultText(await openJob(site, jobId), 'args'), 'ran\0');
      const results = await openAsOwner(`${site.scratch}/test-${jobId}/encrypted_output.tgz`, `results-${format}.tgz`);
      assert.equal(await readFile(join(results, 'output/args'), 'utf8'), 'ran\0');
    });
  }

  it('open results in the age format with age and tar alone', async () => {
    const { publicKey, secretKey } = await generateKey('age');
    const data = await prepareData(site, join(site.temporary, 'input'), { name: 'age-results.tgz' });
    const job = await runJob(site, image, data, ['--format', 'age', '--recipient', publicKey, '--', 'args', 'ran']);
    assert.equal(job.code, 0, job.stderr);
    const { stdout: encoded } = await site.run(`base64 -w 0 ${site.scratch}/test-${job.jobId}/encrypted_output.tgz`);
    const opened = await inPeers('age -d -i key sealed | tar -xO output/args', [
      { name: 'key', content: `${secretKey.reveal()}\n`, mode: 0o600 },
      { name: 'sealed', content: Buffer.from(encoded, 'base64') },
    ]);
    assert.equal(opened.stdout.toString(), 'ran\0', opened.stderr);
  });
});

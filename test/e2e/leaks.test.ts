import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { openJob, prepareData, prepareImage, probe, resultText, runJob } from '../support/jobs.ts';
import { ownLabel } from '../../src/sandbox/container.ts';
import { buildPeers, inPeers } from '../support/peers.ts';
import { Site } from '../support/site.ts';
import { infoRecord, vaultRecord } from '../support/vault.ts';

const exec = promisify(execFile);

// What stands in the plain data, what the application makes of it, and every key: none of them may be found anywhere afterwards.
describe('after a job', function () {
  this.timeout(600_000);
  let site: Site;
  const seen = `plain-${randomBytes(12).toString('hex')}`;
  const made = `made-${randomBytes(12).toString('hex')}`;
  const records: Record<string, { path: string; key: string }> = {};
  let needles: string[] = [];
  let jobId = '';

  before(async () => {
    site = await Site.open();
    await buildPeers();
    const program = `#!/bin/sh\n[ "$(cat /sd-container/encrypted/in/plain)" = ${seen} ] && echo ${made} | tee /sd-container/output/result\n`;
    await site.image('hpcs-test/canary', {
      Dockerfile: 'FROM debian:bookworm-slim\nCOPY probe /probe\nENTRYPOINT ["/bin/sh", "/sd-container/encrypted/in/program"]\n',
      probe,
    });
    await mkdir(join(site.temporary, 'in'));
    await writeFile(join(site.temporary, 'in', 'plain'), seen);
    await writeFile(join(site.temporary, 'in', 'program'), program);
    const image = await prepareImage(site, 'hpcs-test/canary');
    const data = await prepareData(site, join(site.temporary, 'in'));
    const ageData = await prepareData(site, join(site.temporary, 'in'), { name: 'age.tgz', format: 'age' });
    const job = await runJob(site, image, data);
    assert.equal(job.code, 0, job.stderr);
    jobId = job.jobId;
    for (const [name, prepared] of Object.entries({ image, data, age: ageData })) {
      const info = await infoRecord(site, prepared.info);
      records[name] = { path: info.path_at_rest, key: (await vaultRecord(site, info)).key };
    }
    const stored = await readdir(join(site.state, 'jobs'));
    const jobRecord = JSON.parse(await readFile(join(site.state, 'jobs', stored[0] as string), 'utf8')) as Record<string, string>;
    // One line from the middle of an armored key is as good as the whole.
    const keys = [
      ...Object.values(records).map(({ key }) => key),
      jobRecord['resultKey'] as string,
      jobRecord['authenticationKey'] as string,
    ];
    needles = [
      seen,
      made,
      ...keys.map((key) => key.split('\n').find((line) => line.length > 40 && !line.startsWith('-')) ?? key),
    ];
  });

  after(async () => {
    await site[Symbol.asyncDispose]();
  });

  const pattern = (): string => needles.map((needle) => `-e ${needle.replaceAll(/[^A-Za-z0-9-]/g, '.')}`).join(' ');

  it('the result is there, for whoever has its key', async () => {
    assert.equal(await resultText(await openJob(site, jobId), 'result'), `${made}\n`);
  });

  it("the site's disks, Slurm's records and its logs hold none of it", async () => {
    const { stdout } = await site.run(
      `grep -rlaE ${pattern()} / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev 2>/dev/null; true`,
      'root',
    );
    assert.equal(stdout, '');
  });

  it("the node's processes and shared memory hold none of it", async () => {
    const { stdout } = await site.run(
      `pgrep -u alice -f 'hpcs|gocryptfs|apptainer|squashfuse'; find /dev/shm /run/user -type f 2>/dev/null; ls -d /tmp/hpcs.*.${jobId}.* 2>/dev/null; true`,
      'root',
    );
    assert.equal(stdout, '');
  });

  it("the client's temporary files and Docker hold none of it", async () => {
    const places = ['/tmp', '/var/tmp', '/dev/shm', '/var/lib/docker/containers', '/var/lib/docker/volumes', '/var/log'];
    // The inputs, the results and the state directory of this test are where it put them itself.
    const { stdout } = await exec('sh', [
      '-c',
      `grep -rlaE ${pattern()} ${places.join(' ')} --exclude-dir=${site.temporary.split('/').at(-1)} 2>/dev/null; true`,
    ]);
    assert.equal(stdout, '');
  });

  it('nothing is left in the engine: no container, volume or image of the preparation', async () => {
    const { stdout } = await exec('docker', ['ps', '-a', '--filter', `label=${ownLabel.name}`, '-q']);
    assert.equal(stdout, '');
  });

  it('age and sqop open the sealed files with the keys of the vault', async () => {
    for (const [name, command] of [
      ['data', 'sqop decrypt key'],
      ['age', 'age -d -i key'],
    ] as const) {
      // prettier-ignore
      const { path, key } = records[name] as { path: string; key: string };
      const { stdout: encoded } = await site.run(`base64 -w0 ${path}`);
      const opened = await inPeers(
        `${command} < sealed > opened && { zstd -dqc opened 2>/dev/null || cat opened; } | tar -xO in/plain`,
        [
          { name: 'key', content: `${key}\n`, mode: 0o600 },
          { name: 'sealed', content: Buffer.from(encoded, 'base64') },
        ],
      );
      assert.equal(opened.stdout.toString(), seen, `${name}: ${opened.stderr}`);
    }
  });
});

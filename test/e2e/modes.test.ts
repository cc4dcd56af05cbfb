import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig } from '../../src/config.ts';
import { startAgent } from '../../src/identity/agent.ts';
import { formatRequest } from '../../src/job/connection.ts';
import { Secret } from '../../src/secret.ts';
import { generateKey } from '../../src/seal/keys.ts';
import { tarOf } from '../../src/pack/tar.ts';
import { cutOff } from '../support/cut.ts';
import { jobArguments, openJob, prepareData, prepareImage, probe, resultText, runJob, type Prepared } from '../support/jobs.ts';
import { enrolPerson } from '../support/people.ts';
import { containerOf, Site } from '../support/site.ts';

describe('jobs get their keys', function () {
  this.timeout(300_000);
  const resources = new AsyncDisposableStack();
  let site: Site;
  let input: string;

  before(async function () {
    this.timeout(1_800_000);
    site = resources.use(await Site.open());
    await site.image('hpcs-test/probe', {
      Dockerfile: 'FROM debian:bookworm-slim\nCOPY probe /probe\nENTRYPOINT ["/probe"]\nCMD ["default"]\n',
      probe,
    });
    input = join(site.temporary, 'input');
    await mkdir(input);
    await writeFile(join(input, 'hello.txt'), 'hello\n');
  });

  after(() => resources.disposeAsync());

  const admin = async (command: string): Promise<string> => {
    const ran = await site.run(
      `/opt/spire/bin/spire-server ${command} -socketPath /run/spire-admin/api.sock`,
      'root',
      containerOf('spireServer'),
    );
    assert.equal(ran.code, 0, ran.stderr);
    return ran.stdout;
  };

  describe('from their client, where nodes reach neither vault nor server', () => {
    const out = ['openbao', 'hpcsServer', 'legacyServer', 'spireServer'] as const;
    const cut = new AsyncDisposableStack();
    let image: Prepared;
    let data: Prepared;

    before(async () => {
      image = await prepareImage(site, 'hpcs-test/probe');
      data = await prepareData(site, input);
      const reach = (): Promise<{ code: number }> => site.run("bash -c '</dev/tcp/hpcs-sandbox-hpcs-server/10080'");
      assert.equal((await reach()).code, 0);
      cut.use(await cutOff(site, out));
      assert.notEqual((await reach()).code, 0);
    });

    after(() => cut.disposeAsync());
    afterEach(() => site.run('scontrol update PartitionName=standard State=UP', 'root'));

    it('while it follows them, over SSH and sealed', async () => {
      const entries = await admin('entry count');
      const job = await runJob(site, image, data, ['--connected', '--', 'list']);
      assert.equal(job.code, 0, job.stderr);
      assert.match(job.stderr, /^identities: .*this client fetches its keys too/m);
      assert.match(job.stderr, /^hpcs: identity: WAITING FOR THE CLIENT of this job/m);
      assert.match(job.stderr, new RegExp(`^job ${job.jobId} was brought its keys, sealed to it$`, 'm'));
      assert.equal(await resultText(await openJob(site, job.jobId), 'data/input/hello.txt'), 'hello\n');
      const directory = '/scratch/project_462000031/alice/.hpcs';
      assert.equal((await site.run(`ls -d ${directory}/connect-* ${directory}/ticket-*`)).stdout, '');
      assert.equal(await admin('entry count'), entries);
    });

    it('from another run of it, and not for a request that was there before the job ran', async () => {
      await site.run('scontrol update PartitionName=standard State=DOWN', 'root');
      const config = join(site.temporary, 'connected.conf');
      const usual = await readFile(site.configuration, 'utf8');
      await writeFile(config, usual.replace('[identity]\n', '[identity]\nmode=connected\n'));
      const submitted = Promise.withResolvers<string>();
      const env = { HPCS_CONFIG: config };
      const running = site.hpcs(jobArguments(site, image, data, ['--', 'args', 'x']), {
        env,
        onStderr: (text) => {
          const [, id] = /^job (\d+) is spiffe:/m.exec(text) ?? [];
          if (id !== undefined) submitted.resolve(id);
        },
      });
      const jobId = await Promise.race([submitted.promise, running.then((exit) => assert.fail(exit.stderr))]);
      // Whoever acts as alice on the site has both halves.
      const { stdout: script } = await site.run(`scontrol write batch_script ${jobId} -`);
      const of = (name: string): string => new RegExp(`"${name}": "([^"]+)"`).exec(script)?.[1] ?? '';
      const directory = of('directory');
      assert.equal((await site.run(`stat -c %a ${directory}`)).stdout, '700\n');
      const fileHalf = new Secret((await site.run(`cat ${of('ticketFile')}`)).stdout.trim());
      const ticket = { scriptHalf: new Secret(of('ticketHalf')), fileHalf };
      const { publicKey } = await generateKey('age');
      const forged = formatRequest(ticket, jobId, publicKey);
      await site.run(`printf '%s' '${forged}' > ${directory}/request.json`);
      const ended = await running;
      assert.equal(ended.code, 7, ended.stderr);
      assert.match(ended.stderr, /request-before-start: ALARM: something asks for the keys of job \d+, which has not started/);
      assert.equal((await site.run(`ls ${directory}`)).stdout, 'request.json\n');
      await site.run(`rm ${directory}/request.json`);
      const listed = JSON.parse((await site.hpcsOk(['job', 'list', '--json'])).stdout) as { jobId: string; awaited: boolean }[];
      assert.equal(listed.find((job) => job.jobId === jobId)?.awaited, true);

      await site.run('scontrol update PartitionName=standard State=UP', 'root');
      while (!(await site.run(`cat ${site.scratch}/test-${jobId}.out`)).stdout.includes(`hpcs job attend ${jobId}`))
        await sleep(200);
      const attended = await site.hpcsOk(['job', 'attend', '--json'], { env });
      assert.deepEqual(JSON.parse(attended.stdout), { answered: [jobId], ended: [] });
      await site.hpcsOk(['job', 'logs', jobId, '--follow']);
      assert.equal(await resultText(await openJob(site, jobId), 'args'), 'x\0');
      assert.match((await site.hpcsOk(['job', 'attend'], { env })).stderr, /no job waits for this client/);
    });
  });
});

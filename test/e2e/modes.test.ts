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
import type { CliExit } from '../support/cli.ts';
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
    let entries: string;

    before(async () => {
      entries = await admin('entry count');
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
      const job = await runJob(site, image, data, ['--connected', '--', 'list']);
      assert.equal(job.code, 0, job.stderr);
      assert.match(job.stderr, /^identities: .*this client fetches its keys too/m);
      assert.match(job.stderr, /^hpcs: identity: WAITING FOR THE CLIENT of this job/m);
      assert.match(job.stderr, new RegExp(`^job ${job.jobId} was brought its keys, sealed to it$`, 'm'));
      assert.equal(await resultText(await openJob(site, job.jobId), 'data/input/hello.txt'), 'hello\n');
      const directory = '/scratch/project_462000031/alice/.hpcs';
      assert.equal((await site.run(`ls -d ${directory}/connect-* ${directory}/ticket-*`)).stdout, '');
      // Neither the grants nor the job took an entry in SPIRE.
      assert.equal(await admin('entry count'), entries);
    });

    it('from another run of it, and not for a request that is forged, or was there before the job ran', async () => {
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
      assert.match((await site.run(`stat -c %a ${directory}`)).stdout, /^[0-7]?700\n$/);
      const fileHalf = new Secret((await site.run(`cat ${of('ticketFile')}`)).stdout.trim());
      const ticket = { scriptHalf: new Secret(of('ticketHalf')), fileHalf };
      const { publicKey } = await generateKey('age');
      const forged = formatRequest(ticket, jobId, publicKey);
      await site.run(`printf '%s' '${forged}' > ${directory}/request.json`);
      const ended = await running;
      assert.equal(ended.code, 7, ended.stderr);
      assert.match(ended.stderr, /ALARM: something asks for the keys of job \d+, which has not started/);
      assert.equal((await site.run(`ls ${directory}`)).stdout, 'request.json\n');
      await site.run(`rm ${directory}/request.json`);
      const listed = JSON.parse((await site.hpcsOk(['job', 'list', '--json'])).stdout) as { jobId: string; awaited: boolean }[];
      assert.equal(listed.find((job) => job.jobId === jobId)?.awaited, true);

      await site.run('scontrol update PartitionName=standard State=UP', 'root');
      while (!(await site.run(`cat ${site.scratch}/test-${jobId}.out`)).stdout.includes(`hpcs job attend ${jobId}`))
        await sleep(200);
      // Who can write there but has one half only.
      const { publicKey: other } = await generateKey('age');
      const wrong = formatRequest({ ...ticket, scriptHalf: fileHalf }, jobId, other);
      await site.run(`cd ${directory} && cp request.json kept && printf '%s' '${wrong}' > request.json`);
      const alarmed = await site.hpcs(['job', 'attend', jobId], { env });
      assert.equal(alarmed.code, 7, alarmed.stderr);
      assert.match(alarmed.stderr, /ALARM: what asks for the keys of job \d+ on the site was not made with its ticket/);
      await site.run(`mv ${directory}/kept ${directory}/request.json`);
      const attended = await site.hpcsOk(['job', 'attend', '--json'], { env });
      assert.deepEqual(JSON.parse(attended.stdout), { answered: [jobId], ended: [] });
      await site.hpcsOk(['job', 'logs', jobId, '--follow']);
      assert.equal(await resultText(await openJob(site, jobId), 'args'), 'x\0');
      assert.match((await site.hpcsOk(['job', 'attend'], { env })).stderr, /no job waits for this client/);
    });
  });

  /** Prepares with `grants`, runs the job and opens what it read. */
  const wholeWay = async (
    hpcs: (args: readonly string[]) => Promise<CliExit>,
    scratch: string,
    grants: { image: string[]; data: string[] },
  ): Promise<CliExit> => {
    const place = ['-c', 'nid000001', '--data-path-at-rest', scratch];
    const image = ['-b', 'hpcs-test/probe', '-e', '--pull', 'never', '--data-path', 'image.sif', ...grants.image];
    for (const args of [
      ['container-prep', ...image, ...place],
      ['data-prep', '-i', input, '--data-path', 'data.tgz', ...grants.data, ...place],
    ]) {
      const prepared = await hpcs(args);
      assert.equal(prepared.code, 0, prepared.stderr);
    }
    const info = (name: string): Prepared => ({ info: `${scratch}/${name}.info.yaml` });
    const job = await hpcs(jobArguments(site, info('image.sif'), info('data.tgz'), ['-s', scratch, '--', 'list']));
    assert.equal(job.code, 0, job.stderr);
    const jobId = /submitted job (\d+)/.exec(job.stdout)?.[1] ?? '';
    const results = join(site.temporary, `results-${jobId}`);
    assert.equal((await hpcs(['job', 'results', jobId, '--output', results])).code, 0);
    assert.equal(await resultText(results, 'data/input/hello.txt'), 'hello\n');
    return job;
  };

  it('as a user, and as a member of a group, whom an agent of their own attests', async () => {
    await using legacy = await Site.open({ legacy: true });
    const grants = { image: ['-u', 'alice'], data: ['-g', 'project_462000031'] };
    const job = await wholeWay((args) => legacy.hpcs(args), legacy.scratch, grants);
    assert.match(job.stderr, /^identities: the job is attested by a SPIRE agent on its node, which it starts/m);
    assert.match(job.stderr, /^hpcs: identity: attesting node nid000001$/m);
  });

  it('over Workload APIs that are there: agents of the site and of the client, which nobody gave a join token of ours', async () => {
    await using person = await enrolPerson(site, `socket-${Date.now()}`);
    const config = await loadConfig(person.configuration);
    const { address, port, 'trust-domain': trustDomain } = config['spire-server'];
    const trustBundle = await readFile(join(site.directory, 'trust-bundle.pem'), 'utf8');
    const token = async (agent: string): Promise<string> =>
      (JSON.parse(await admin(`token generate -output json -spiffeID spiffe://${trustDomain}${agent}`)) as { value: string })
        .value;

    // The site's agent on its node, as its administrators would set it up: under the name that grants are made for.
    const sandboxConfig = { data_dir: '/run/site-agent', trust_domain: trustDomain, server_address: 'hpcs-sandbox-spire-server' };
    const agent = {
      ...sandboxConfig,
      server_port: 8081,
      socket_path: '/run/site-agent/api.sock',
      join_token: await token('/h/nid000001'),
      trust_bundle_path: '/run/site-agent/bundle.pem',
    };
    const plugins = {
      KeyManager: { memory: { plugin_data: {} } },
      NodeAttestor: { join_token: { plugin_data: {} } },
      WorkloadAttestor: { unix: { plugin_data: {} } },
    };
    const files = tarOf([
      { name: 'run/site-agent/', type: 'directory' },
      { name: 'run/site-agent/spire-agent', content: await readFile(config['spire-agent'].bin), mode: 0o755 },
      { name: 'run/site-agent/bundle.pem', content: trustBundle },
      { name: 'run/site-agent/agent.conf', content: JSON.stringify({ agent, plugins }), mode: 0o600 },
    ]);
    await site.docker.getContainer(containerOf('site')).putArchive(Buffer.from(files), { path: '/' });
    const start = '/run/site-agent/spire-agent run -config /run/site-agent/agent.conf >/run/site-agent/log 2>&1 & echo $!';
    const pid = (await site.run(start, 'root')).stdout.trim();
    await using cleanup = new AsyncDisposableStack();
    cleanup.defer(async () => void (await site.run(`kill ${pid}; rm -rf /run/site-agent`, 'root')));

    // The client's agent, and an entry for it, as administrators of SPIRE would make them.
    const laptop = `/laptop/${person.identity.clientId}`;
    const selector = `unix:uid:${process.getuid?.()}`;
    await admin(
      `entry create -spiffeID ${person.identity.spiffeId} -parentID spiffe://${trustDomain}${laptop} -selector ${selector}`,
    );
    const own = await startAgent({
      bin: config['spire-agent'].bin,
      serverAddress: address,
      serverPort: port,
      trustDomain,
      trustBundle,
      joinToken: new Secret(await token(laptop)),
    });
    cleanup.use(own);

    const configuration = `${person.configuration}.socket`;
    const usual = await readFile(person.configuration, 'utf8');
    const written = usual
      .replace('[identity]\n', '[identity]\nclient=agent\nmode=agent\n')
      .replace(/^key-file=.*\n/m, '')
      .replace('[spire-agent]\n', '[spire-agent]\nsocket-on-node=unix:///run/site-agent/api.sock\n');
    await writeFile(configuration, written);
    const env = { HPCS_CONFIG: configuration, SPIFFE_ENDPOINT_SOCKET: own.socket };
    const grants = { image: ['-u', 'alice'], data: ['-g', 'project_462000031'] };
    const scratch = `${site.scratch}/socket`;
    await site.run(`mkdir ${scratch}`);
    const job = await wholeWay((args) => person.hpcs(args, { env }), scratch, grants);
    assert.match(job.stderr, /^asking the SPIRE agent at unix:/m);
    assert.match(job.stderr, /^identities: the job is attested by the site's own SPIRE agent on its node$/m);
    assert.match(job.stderr, /^hpcs: identity: asking the site's SPIRE agent at unix:\/\/\/run\/site-agent\/api\.sock$/m);
  });
});

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { connectDocker } from '../../src/image/docker.ts';
import { ensureImages } from '../../src/sandbox/images.ts';
import { HttpClient } from '../../src/http.ts';
import { hpcs, type CliExit } from '../support/cli.ts';
import { containerOf, Site } from '../support/site.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const project = `${containerOf('site')}-deployment`;

interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * The deployment of docker/deploy as its documentation says, from nothing, and the demo on it. Only the supercomputer is that of the
 * sandbox, connected to the deployment's network.
 */
describe('the deployment with compose', function () {
  this.timeout(300_000);
  const resources = new AsyncDisposableStack();
  let site: Site;
  let directory: string;
  let env: NodeJS.ProcessEnv;
  let ports: { server: number; vault: number; spire: number };

  const run = async (command: string, args: readonly string[], input = ''): Promise<Ran> =>
    new Promise((resolve) => {
      const child = execFile(command, args, { cwd: root, env }, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr }),
      );
      child.stdin?.end(input);
    });
  const compose = (...args: string[]): Promise<Ran> =>
    run('docker', ['compose', '-f', 'docker/deploy/compose.yaml', '--profile', 'trial', ...args]);
  const server = (args: readonly string[], input = ''): Promise<Ran> =>
    run('docker', ['compose', '-f', 'docker/deploy/compose.yaml', ...args], input);
  const client = async (args: readonly string[], input = ''): Promise<CliExit> => {
    const exit = await hpcs(args, { input, env: { HPCS_CONFIG: join(directory, 'hpcs-client.conf'), HPCS_STATE_DIR: join(directory, 'state') } }); // prettier-ignore
    assert.equal(exit.code, 0, `hpcs ${args.join(' ')}: ${exit.stderr}`);
    return exit;
  };

  before(async function () {
    this.timeout(1_800_000);
    site = resources.use(await Site.open());
    const docker = await connectDocker();
    const images = await ensureImages({ docker, progress: () => undefined });
    directory = await mkdtemp(join(tmpdir(), 'hpcs-deployment-'));
    resources.defer(() => rm(directory, { recursive: true, force: true }));
    const [server = 0, vault = 0, spire = 0] = await freePorts(3);
    ports = { server, vault, spire };
    env = {
      ...process.env,
      COMPOSE_PROJECT_NAME: project,
      HPCS_TLS: join(directory, 'tls'),
      HPCS_PORT: `${server}`,
      OPENBAO_PORT: `${vault}`,
      SPIRE_PORT: `${spire}`,
      HPCS_SERVER_IMAGE: images.hpcsServer,
      SPIRE_SERVER_IMAGE: images.spireServer,
      SPIRE_AGENT_IMAGE: images.spireAgent,
      SPIRE_OIDC_IMAGE: images.oidc,
      OPENBAO_IMAGE: images.openbao,
    };
    resources.defer(async () => void (await compose('down', '-v', '--timeout', '2')));
    const made = await run('docker/deploy/certificates.sh', [join(directory, 'tls')]);
    assert.equal(made.code, 0, made.stderr);
    const up = await compose('up', '-d', '--wait');
    assert.equal(up.code, 0, `${up.stderr}\n${(await compose('logs', '--tail', '8', '--no-color')).stdout}`);
    resources.defer(async () => void (await run('docker', ['network', 'disconnect', '-f', `${project}_default`, containerOf('site')]))); // prettier-ignore
    const connected = await run('docker', ['network', 'connect', `${project}_default`, containerOf('site')]);
    assert.equal(connected.code, 0, connected.stderr);
    await writeFile(join(directory, 'hpcs-client.conf'), await clientConfiguration());
  });

  after(() => resources.disposeAsync());

  const serverApi = async (): Promise<HttpClient> =>
    new HttpClient({
      name: 'HPCS server',
      url: `https://127.0.0.1:${ports.server}`,
      ca: await readFile(join(directory, 'tls', 'ca.pem'), 'utf8'),
    });

  // That of the sandbox, but for its services.
  async function clientConfiguration(): Promise<string> {
    const sandbox = await readFile(site.configuration, 'utf8');
    const supercomputer = sandbox.slice(sandbox.indexOf('[supercomputer]'));
    const ca = join(directory, 'tls', 'ca.pem');
    return `[spire-server]\naddress=127.0.0.1\nport=${ports.spire}\ntrust-domain=hpcs.internal\n
[hpcs-server]\nurl=https://127.0.0.1:${ports.server}\nca-file=${ca}\nurl-from-node=https://hpcs-server:10080\n
[identity]\nkey-file=${join(directory, 'client-key.json')}\n
[vault]\nurl=https://127.0.0.1:${ports.vault}\nca-file=${ca}\nnamespace=hpcs\n\n${supercomputer}`;
  }

  it('runs the demo: enrol, seal data and image, run the job, open its results', async () => {
    const invited = await server(['exec', '-T', 'hpcs-server', 'node', '/app/bin/dev.js', 'server', 'enrol', '--config', '/etc/hpcs/hpcs-server.conf', '--name', 'alice']); // prettier-ignore
    assert.equal(invited.code, 0, invited.stderr);
    await client(['enrol'], invited.stdout);
    const { scratch } = site;
    const place = ['-u', 'alice', '-c', 'nid000001', '--data-path-at-rest', scratch];
    await client(['data-prep', '-i', 'examples/jp2a_input', ...place, '--data-path', 'encrypted_jp2a_input.tgz']);
    const built = await run('docker', ['build', '-q', '-t', 'hpcs-example/jp2a', 'examples/jp2a']);
    assert.equal(built.code, 0, built.stderr);
    await client(['container-prep', '-b', 'hpcs-example/jp2a', '-e', ...place, '--data-path', 'encrypted_prepared_jp2a.sif']);
    // prettier-ignore
    const submitted = await client(['job-prep', '-J', 'jp2a', '-N', '1', '-p', 'standard', '-t', '00:10:00', '-A', 'project_462000031', '-s', scratch,
      '-ai', `${scratch}/encrypted_prepared_jp2a.sif.info.yaml`, '-di', `${scratch}/encrypted_jp2a_input.tgz.info.yaml`, '-f',
      '--', '/sd-container/encrypted/jp2a_input/image.png', '--width=100', '--output=/sd-container/output/result']);
    const [, job = ''] = /^submitted job (\d+)$/m.exec(submitted.stdout) ?? [];
    await client(['job', 'results', job, '--output', join(directory, 'results')]);
    const picture = await readFile(join(directory, 'results', 'result'), 'utf8');
    assert.ok(picture.split('\n').length > 20 && (picture.split('\n')[0]?.length ?? 0) >= 100, picture.slice(0, 300));
  });

  it('was set up by bootstrap, whose token is revoked, and leaves no other', async () => {
    const log = (await compose('logs', '--no-log-prefix', 'trial-bootstrap')).stdout;
    assert.match(log, /^made +the namespace hpcs/m);
    assert.match(log, /^ok +an audit device/m);
    const kept = await compose('run', '--rm', '-T', '--no-deps', '--entrypoint', 'ls', 'trial-vault', '/keys');
    assert.equal(kept.stdout.trim(), 'unseal-key');
    const audit = await server(['exec', '-T', 'openbao', 'cat', '/openbao/logs/audit.log']);
    assert.ok(audit.stdout.includes('auth/token/revoke-self') && audit.stdout.includes('"hpcs/"'), 'recorded');
  });

  it('confines its server at SPIRE, and says so', async () => {
    // As the server: its user, where its agent sees it. It has no administrator's token for the vault, so that part is not right.
    const checked = await server(
      [
        'exec',
        '-T',
        'hpcs-server',
        'node',
        '/app/bin/dev.js',
        'server',
        'bootstrap',
        '--config',
        '/etc/hpcs/hpcs-server.conf',
        '--check',
      ],
      'not-a-token',
    );
    assert.equal(checked.code, 4, checked.stderr);
    assert.match(checked.stdout, /^ok +the confinement of this server by SPIRE$/m);
    assert.match(checked.stdout, /^WRONG +KV version 2 at kv: .*denied/m);
    assert.match(
      checked.stdout,
      /^WRONG +the entry of spiffe:\/\/hpcs\.internal\/hpcs-server\/workload in SPIRE: there is no socket/m,
    );
    assert.doesNotMatch(checked.stdout + checked.stderr, /not-a-token/);
  });

  // It may write policies, so within its namespace it can give itself everything. The namespace is what holds.
  it('keeps its server to its namespace of the vault, even with all rights that it can give itself', async () => {
    const everything = 'path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }';
    const program = `
      import { Secret } from '/app/src/secret.ts';
      import { readCa } from '/app/src/http.ts';
      import { loadServerConfig } from '/app/src/server/config.ts';
      import { ownToken, spireReach } from '/app/src/server/reach.ts';
      import { Spire } from '/app/src/server/spire.ts';
      import { Vault, vaultClient } from '/app/src/vault.ts';
      const config = await loadServerConfig('/etc/hpcs/hpcs-server.conf');
      const { url, 'ca-file': caFile, namespace } = config.vault;
      const ca = await readCa(caFile);
      const place = new Vault({ url, ca, namespace });
      const own = await place.login('hpcs-server', await ownToken(config));
      const name = 'client_0123456fe', path = '/c/0123456fe/workload';
      await own.request('POST', '/v1/sys/policies/acl/' + name, { policy: ${JSON.stringify(everything)} });
      await own.request('POST', '/v1/auth/jwt/role/' + name, { role_type: 'jwt', user_claim: 'sub', bound_subject: 'spiffe://hpcs.internal' + path,
        bound_audiences: ['vault'], token_policies: [name] });
      using spire = new Spire(spireReach(config));
      const all = await place.login(name, await spire.mintJwtSvid({ trustDomain: 'hpcs.internal', path }, ['vault'], 60));
      const token = new Secret((await all.request('POST', '/v1/auth/token/create', {})).body.auth.client_token);
      const root = vaultClient({ url, ca });
      const calls = [['GET', 'sys/mounts'], ['POST', 'sys/policies/acl/x'], ['GET', 'sys/auth'], ['LIST', 'sys/namespaces'], ['GET', 'sys/audit'],
        ['PUT', 'sys/seal'], ['POST', 'sys/mounts/other'], ['POST', 'auth/token/create']];
      const there = [];
      for (const [method, path] of calls) there.push((await root.json(method, '/v1/' + path, { body: {}, headers: { 'x-vault-token': token } })).status);
      console.log(JSON.stringify({ inside: (await all.request('GET', '/v1/sys/mounts')).status, there }));
      process.exit(0);`;
    const ran = await server(['exec', '-T', 'hpcs-server', 'node', '--input-type=module-typescript', '-e', program]);
    assert.equal(ran.code, 0, ran.stderr);
    assert.deepEqual(JSON.parse(ran.stdout), { inside: 200, there: Array.from({ length: 8 }, () => 403) });
  });

  it('keeps its server when the SPIRE agent dies, and the next agent knows it', async () => {
    const inspect = async (service: string, format: string): Promise<string> => {
      const id = (await compose('ps', '-aq', service)).stdout.trim();
      return (await run('docker', ['inspect', '-f', format, id])).stdout.trim();
    };
    const [agent, before] = [
      await inspect('spire-agent', '{{.State.Pid}}'),
      await inspect('hpcs-server', '{{.State.StartedAt}}'),
    ];
    assert.match(agent, /^[1-9]\d*$/);
    // From without: Docker starts nothing again that it was told to end itself.
    const shell = ['--rm', '--log-driver', 'none', '--pid', 'host', '--user', '0:0', '--entrypoint', 'sh', env['HPCS_SERVER_IMAGE'] ?? '']; // prettier-ignore
    const killed = await run('docker', ['run', ...shell, '-c', `kill -9 ${agent}`]);
    assert.equal(killed.code, 0, killed.stderr);
    const isBack = async (): Promise<boolean> => {
      const [pid, health] = (await inspect('spire-agent', '{{.State.Pid}} {{.State.Health.Status}}')).split(' ');
      return pid !== agent && health === 'healthy';
    };
    for (const late = performance.now() + 60_000; !(await isBack()); await sleep(500))
      assert.ok(performance.now() < late, 'the agent was not started again');
    assert.equal(await inspect('hpcs-server', '{{.State.StartedAt}}'), before);
    const invited = await server(['exec', '-T', 'hpcs-server', 'node', '/app/bin/dev.js', 'server', 'enrol', '--config', '/etc/hpcs/hpcs-server.conf', '--name', 'bert']); // prettier-ignore
    assert.equal(invited.code, 0, invited.stderr);
    await using api = await serverApi();
    assert.equal((await api.json('GET', '/readyz')).status, 200);
  });

  it('comes back with all it had when it is started anew', async () => {
    const down = await compose('down', '--timeout', '5');
    assert.equal(down.code, 0, down.stderr);
    const up = await compose('up', '-d', '--wait');
    assert.equal(up.code, 0, up.stderr);
    await using api = await serverApi();
    assert.equal((await api.json('GET', '/readyz')).status, 200);
    // The client is still enrolled, and may go on.
    const place = ['-u', 'alice', '-c', 'nid000001', '--data-path-at-rest', site.scratch];
    await client(['data-prep', '-i', 'examples/jp2a_input', ...place, '--data-path', 'again.tgz']);
  });
});

/** Ports of 127.0.0.1 that nobody listens on. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => new Promise((resolve) => server.once('listening', resolve))));
  const found = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return found;
}

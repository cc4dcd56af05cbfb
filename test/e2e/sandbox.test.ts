import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import type Docker from 'dockerode';
import { loadConfig, type Config } from '../../src/config.ts';
import { HpcsError } from '../../src/errors.ts';
import { HttpClient, readCa } from '../../src/http.ts';
import { connectDocker } from '../../src/image/docker.ts';
import { openIdentity } from '../../src/identity/client-identity.ts';
import { execute } from '../../src/sandbox/engine.ts';
import { sandboxDown, sandboxStatus, sandboxUp } from '../../src/sandbox/sandbox.ts';
import { connect } from '../../src/site/connect.ts';
import type { Transport } from '../../src/site/transport.ts';
import { vaultClient } from '../../src/vault.ts';
import { hpcs } from '../support/cli.ts';
import { administratorToken } from '../support/owner.ts';

// Beside the sandbox of the other tests, and with the other shape: login node and compute node apart.
const name = 'hpcs-sandbox-test';

describe('a sandbox of its own', function () {
  this.timeout(300_000);
  let docker: Docker;
  let directory: string;
  let config: Config;
  const progress: string[] = [];
  const up = (signal?: AbortSignal): ReturnType<typeof sandboxUp> =>
    sandboxUp({ docker, directory, name, nodes: 1, signal, progress: (message) => progress.push(message) });
  const containers = async (): Promise<string[]> =>
    (await docker.listContainers({ all: true, filters: { label: [`io.github.hpcs-client.sandbox=${name}`] } }))
      .map(({ Id }) => Id)
      .sort();

  before(async () => {
    docker = await connectDocker();
    directory = await mkdtemp(join(tmpdir(), 'hpcs-sandbox-'));
    await sandboxDown({ docker, directory, name });
    await up();
    config = await loadConfig(join(directory, 'hpcs-client.conf'));
  });

  after(async () => {
    await sandboxDown({ docker, directory, name });
    await rm(directory, { recursive: true, force: true });
  });

  async function onSite(script: string): Promise<{ code: number | null; stdout: string; stderr: string }> {
    await using site: Transport = await connect(config);
    const process = site.exec(script);
    const [stdout, exit] = await Promise.all([text(process.stdout), process.finished]);
    return { code: exit.code, stdout, stderr: exit.stderr };
  }

  describe('that is up', () => {
    it('has every part healthy, on the command line too', async () => {
      const shown = await hpcs(['sandbox', 'status', '--directory', directory, '--name', name, '--json']);
      assert.equal(shown.code, 0, shown.stderr);
      const status = JSON.parse(shown.stdout) as Awaited<ReturnType<typeof sandboxStatus>>;
      assert.deepEqual(
        status.parts.map((part) => `${part.name.slice(name.length + 1)} ${part.state}`),
        ['spire-server', 'spire-agent', 'oidc', 'openbao', 'hpcs-server', 'site', 'nid000001'].map((part) => `${part} healthy`),
      );
    });

    it('enrolled its client, and said as whom', () => {
      assert.ok(progress.some((message) => message.includes('enrolling the client as alice')));
    });

    it('stays as it is when asked for again, within 5 seconds', async () => {
      const before = await containers();
      const start = performance.now();
      assert.equal((await up()).healthy, true);
      const seconds = (performance.now() - start) / 1000;
      assert.deepEqual(await containers(), before);
      assert.ok(seconds < 5, `took ${seconds.toFixed(1)} s`);
    });

    it('keeps its secrets to its owner', async () => {
      for (const file of ['id_ed25519', 'openbao.json', 'hpcs-client.conf'])
        assert.equal((await stat(join(directory, file))).mode & 0o777, 0o600, file);
      assert.equal((await stat(directory)).mode & 0o077, 0);
    });

    it('writes configurations for both kinds of client', async () => {
      assert.equal(config['spire-server']['trust-domain'], 'sandbox.hpcs');
      for (const file of [config['spire-agent'].bin, config.client['tool-kit'], config.vault['ca-file']])
        assert.ok((await stat(file ?? '')).size > 0);
      const compose = await loadConfig(join(directory, 'hpcs-client.compose.conf'));
      assert.equal(compose.vault.url, 'https://hpcs-sandbox-openbao:8200');
      assert.equal(compose.vault.url, config.vault['url-from-node']);
      assert.equal(compose.supercomputer.port, 22);
    });
  });

  describe('services', () => {
    it('are refused without the authority of the sandbox', async () => {
      for (const url of [config.vault.url, config['hpcs-server'].url]) {
        await using stranger = new HttpClient({ name: 'service', url });
        await assert.rejects(stranger.json('GET', '/'), (error: HpcsError) => error.code === 'untrusted-server');
      }
    });

    it('give the enrolled client an identity, and strangers and nodes none', async () => {
      const { signal } = new AbortController();
      await using identity = await openIdentity(config, { signal, progress: () => undefined, env: {} });
      assert.match(identity.spiffeId, /^spiffe:\/\/sandbox\.hpcs\/c\/[0-9a-f]{9}\/workload$/);
      assert.equal((await identity.jwt('vault')).reveal().split('.').length, 3);
      await using server = new HttpClient({
        name: 'HPCS server',
        url: config['hpcs-server'].url,
        ca: await readCa(config['hpcs-server']['ca-file']),
      });
      assert.equal((await server.json('POST', '/api/client/register', { body: { uid: 1000 } })).status, 403);
      assert.equal((await server.json('POST', '/api/agents/token?hostname=nid000001')).status, 401);
    });

    it('record every call on the vault', async () => {
      const { url, namespace, 'ca-file': caFile } = config.vault;
      await using vault = vaultClient({ url, namespace, ca: await readCa(caFile) });
      const headers = { 'x-vault-token': await administratorToken({ directory }) };
      const written = await vault.json('POST', '/v1/kv/data/client_012345678/audited', { headers, body: { data: { key: 'k' } } });
      assert.equal(written.status, 200, JSON.stringify(written.body));
      const log = await execute(docker.getContainer(`${name}-openbao`), [
        'grep',
        '-c',
        'client_012345678/audited',
        '/openbao/audit.log',
      ]);
      assert.equal(log.stdout.trim(), '2', 'request and response');
    });
  });

  describe('its site', () => {
    it('runs a job on the compute node, which knows the login node by MUNGE', async () => {
      const ran =
        await onSite(`cd /scratch/project_462000031/alice && printf '#!/bin/sh\\nhostname; id -un; munge -n | unmunge | grep -c ^STATUS.*Success; exit 3' |
        sbatch --wait --export=NONE -o job.out >/dev/null; echo $?; hostname; cat job.out`);
      assert.deepEqual(ran.stdout.trim().split('\n'), ['3', 'login', 'nid000001', 'alice', '1'], ran.stderr);
    });

    it('runs an image with Apptainer in a job, mounted and not unpacked', async () => {
      const ran = await onSite(String.raw`set -e
        cd /scratch/project_462000031/alice; rm -rf root; mkdir -p root/dev root/tmp root/var/tmp root/etc root/bin root/lib64; touch root/etc/passwd root/etc/group
        cp --parents $(ldd /bin/sh /bin/cat | grep -o '/[^ :]*' | sort -u) /bin/sh /bin/cat root 2>/dev/null || true
        mksquashfs root root.sqfs -quiet -no-progress -noappend >/dev/null; apptainer sif new a.sif
        apptainer sif add --datatype 4 --parttype 2 --partfs 1 --partarch 2 a.sif root.sqfs
        cat > job.sh <<'END'
#!/bin/sh
apptainer -q exec --containall --cleanenv --no-home --pwd / a.sif /bin/sh -c 'read line </proc/self/mounts; echo "$line"; exit 37'
code=$?
ls -d /tmp/rootfs-* 2>/dev/null
exit $code
END
        set +e; sbatch --wait --export=NONE -o app.out <job.sh >/dev/null; echo $?; cat app.out`);
      const [code, root, ...more] = ran.stdout.trim().split('\n');
      assert.equal(code, '37', `${ran.stdout}${ran.stderr}`);
      assert.match(root ?? '', /^overlay \/ overlay ro/);
      assert.deepEqual(more, []);
    });

    it('lets users make private namespaces, and keeps their files apart', async () => {
      const ran = await onSite(
        'unshare -Um --map-current-user --keep-caps --propagation private sh -c "mount -t tmpfs tmpfs /mnt && id -u"; ls /home/mallory',
      );
      assert.equal(ran.stdout, '2001\n');
      assert.match(ran.stderr, /Permission denied/);
    });

    it('is not let in with another host key', async () => {
      const wrong = join(directory, 'other-known-hosts');
      const { port } = config.supercomputer;
      const other = 'AAAAC3NzaC1lZDI1NTE5AAAAIPa9VbN0ZrJ0n6aJ7Yxk8zJc0bYJv5n6m0c1a0u2b9qk';
      await writeFile(wrong, `[127.0.0.1]:${port} ssh-ed25519 ${other}\n`);
      const stranger = { ...config, supercomputer: { ...config.supercomputer, 'known-hosts': [wrong] } };
      await assert.rejects(connect(stranger), (error: HpcsError) => error instanceof HpcsError && error.kind === 'site');
    });
  });

  describe('that is broken', () => {
    it('says which part, and is made anew', async () => {
      await docker.getContainer(`${name}-openbao`).stop({ t: 0 });
      const shown = await hpcs(['sandbox', 'status', '--directory', directory, '--name', name]);
      assert.equal(shown.code, 3);
      assert.match(shown.stdout, new RegExp(`^${name}-openbao +stopped`, 'm'));
      const before = await containers();
      assert.equal((await up()).healthy, true);
      config = await loadConfig(join(directory, 'hpcs-client.conf'));
      assert.deepEqual(
        (await containers()).filter((id) => before.includes(id)),
        [],
      );
      assert.equal((await onSite('id -un')).stdout, 'alice\n');
    });

    it('leaves nothing behind when it is interrupted', async () => {
      await docker.getContainer(`${name}-site`).remove({ force: true });
      const abort = new AbortController();
      const starting = sandboxUp({
        docker, directory, name, nodes: 1, signal: abort.signal,
        progress: (message) => message.startsWith('setting up') && abort.abort(new HpcsError('interrupted', 'interrupted', 'interrupted')),
      }); // prettier-ignore
      await assert.rejects(starting, (error: HpcsError) => error.code === 'interrupted');
      assert.deepEqual(await containers(), []);
    });

    it('names the part that did not start, with its last words', async () => {
      // Given a second configuration, which does not exist, the real program ends at once.
      const create = docker.createContainer.bind(docker);
      docker.createContainer = (options: Docker.ContainerCreateOptions) =>
        create(options.name === `${name}-openbao` ? { ...options, Cmd: ['-config', '/missing.hcl'] } : options);
      try {
        await assert.rejects(up(), (error: HpcsError) => {
          assert.equal(error.code, 'sandbox-part-failed');
          assert.match(error.message, /hpcs-sandbox-openbao ended with 1.*missing\.hcl/);
          return true;
        });
      } finally {
        docker.createContainer = create;
      }
      assert.deepEqual(await containers(), []);
    });
  });

  describe('that is taken down', () => {
    it('is gone: containers, network, volumes and files', async () => {
      await up();
      const gone = await hpcs(['sandbox', 'down', '--directory', directory, '--name', name]);
      assert.equal(gone.code, 0, gone.stderr);
      assert.deepEqual(await containers(), []);
      const mine = (found: string): boolean => found.startsWith(name);
      assert.deepEqual((await docker.listNetworks()).map((network) => network.Name).filter(mine), []);
      assert.deepEqual((await docker.listVolumes()).Volumes.map((volume) => volume.Name).filter(mine), []);
      assert.deepEqual(await readdir(directory), ['other-known-hosts']);
    });
  });
});

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig, type Config } from '../../src/config.ts';
import { HttpClient, readCa } from '../../src/http.ts';
import { tarOf } from '../../src/pack/tar.ts';
import { sendExactly, type ExactAnswer } from '../support/exact-http.ts';
import { VaultOwner } from '../support/owner.ts';
import { containerOf, Site } from '../support/site.ts';

// What the original's Python programs send: requests 2.31, with JSON as Python writes it.
const head = (url: URL, path: string): string =>
  `POST ${path} HTTP/1.1\r\nHost: ${url.host}\r\nUser-Agent: python-requests/2.31.0\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n`;
const empty = (url: URL, path: string): string => `${head(url, path)}Content-Length: 0\r\n\r\n`;
const json = (url: URL, path: string, body: string): string =>
  `${head(url, path)}Content-Length: ${Buffer.byteLength(body)}\r\nContent-Type: application/json\r\n\r\n${body}`;

// The configuration that the original writes for its agents, its values filled in.
const agentConfiguration = (trustDomain: string, token: string): string => `agent {
    data_dir = "./data/agent"
    log_level = "DEBUG"
    trust_domain = "${trustDomain}"
    server_address = "hpcs-sandbox-spire-server"
    server_port = 8081
    socket_path = "/run/original/agent.sock"
    join_token = "${token}"

    # Insecure bootstrap is NOT appropriate for production use but is ok for
    # simple testing/evaluation purposes.
    insecure_bootstrap = true
}

plugins {
   KeyManager "disk" {
        plugin_data {
            directory = "./data/agent"
        }
    }

    NodeAttestor "join_token" {
        plugin_data {}
    }

    WorkloadAttestor "unix" {
        plugin_data {
            discover_workload_path = true
        }
    }

    WorkloadAttestor "docker" {
        plugin_data {}
    }
}
`;

describe('the original', function () {
  this.timeout(120_000);
  const resources = new AsyncDisposableStack();
  let site: Site;
  let legacy: Config;
  let config: Config;
  let ca: string | undefined;
  let owner: VaultOwner;
  let vault: HttpClient;

  before(async function () {
    this.timeout(1_800_000);
    site = resources.use(await Site.open());
    config = await loadConfig(site.configuration);
    legacy = await loadConfig(site.legacyConfiguration);
    ca = await readCa(config['hpcs-server']['ca-file']);
    owner = resources.use(await VaultOwner.open(site));
    vault = resources.use(new HttpClient({ url: config.vault.url, ca, name: 'vault' }));
  });

  after(() => resources.disposeAsync());

  it('has a client whose steps work in legacy mode, byte for byte, and are refused by name otherwise', async () => {
    const send = (to: Config, text: (url: URL) => string): Promise<ExactAnswer> => {
      const url = new URL(to['hpcs-server'].url);
      return sendExactly(url, ca, text(url));
    };
    // Register.
    const register = (url: URL): string => empty(url, '/api/client/register');
    const registered = (await send(legacy, register)).body as { success: boolean; client_id: string; token: string };
    assert.equal(registered.success, true);

    // Agent, and the token that the client shows to both services.
    const trustDomain = legacy['spire-server']['trust-domain'];
    const files = tarOf([
      { name: 'run/original/', type: 'directory' },
      { name: 'run/original/spire-agent', content: await readFile(legacy['spire-agent'].bin), mode: 0o755 },
      { name: 'run/original/agent.conf', content: agentConfiguration(trustDomain, registered.token), mode: 0o600 },
    ]);
    await site.docker.getContainer(containerOf('site')).putArchive(Buffer.from(files), { path: '/' });
    const start =
      'cd /run/original && ./spire-agent run -config /run/original/agent.conf -logFile /run/original/agent.log >/dev/null 2>&1 & echo $!';
    const pid = (await site.run(start, 'root')).stdout.trim();
    await using cleanup = new AsyncDisposableStack();
    cleanup.defer(async () => void (await site.run(`kill ${pid}; rm -rf /run/original`, 'root')));
    const fetch = `/run/original/spire-agent api fetch jwt -audience TESTING -spiffeID spiffe://${trustDomain}/c/${registered.client_id}/workload -socketPath /run/original/agent.sock -output json`;
    let fetched = await site.run(fetch, 'root');
    for (let attempt = 0; fetched.code !== 0 && attempt < 60; attempt++) {
      await sleep(500);
      fetched = await site.run(fetch, 'root');
    }
    assert.equal(fetched.code, 0, fetched.stderr + (await site.run('tail -5 /run/original/agent.log', 'root')).stdout);
    const [{ svids: [{ svid: jwt }] }] = JSON.parse(fetched.stdout) as [{ svids: [{ svid: string }] }]; // prettier-ignore

    // Readers.
    const secret = `encrypted_data_${Date.now()}.tgz`;
    const wanted = `{"jwt": "${jwt}", "secret": "${secret}", "users": ["alice", "bob"], "groups": null, "compute_nodes": ["nid000001"]}`;
    const createWorkloads = (url: URL): string => json(url, '/api/client/create-workloads', wanted);
    const made = await send(legacy, createWorkloads);
    assert.equal(made.status, 200, JSON.stringify(made.body));
    const { message, ...answer } = made.body as Record<string, unknown>;
    assert.equal(typeof message, 'string');
    assert.deepEqual(answer, {
      success: true,
      clientID: registered.client_id,
      spiffeID: `spiffe://${trustDomain}/c/${registered.client_id}/s/${secret}`,
      compute_nodes_added: { nid000001: { users: ['alice', 'bob'], groups: [] } },
      secrets_path: `client_${registered.client_id}/${secret}`,
      user_role: `client_${registered.client_id}-${secret}`,
    });

    // Vault, as its Python client writes.
    const login = await vault.json('POST', '/v1/auth/jwt/login', { body: { role: `client_${registered.client_id}`, jwt } });
    const { auth } = login.body as { auth: { client_token: string } };
    const written = await vault.json('POST', `/v1/kv/data/client_${registered.client_id}/${secret}`, {
      body: { options: {}, data: { key: 'AGE-SECRET-KEY-1' } },
      headers: { 'x-vault-token': auth.client_token },
    });
    assert.equal(written.status, 200);
    const stored = (await owner.ask('GET', `kv/data/client_${registered.client_id}/${secret}`)).body as {
      data: { data: object };
    };
    assert.deepEqual(stored.data.data, { key: 'AGE-SECRET-KEY-1' });

    // A node.
    const node = (await send(legacy, (url) => empty(url, '/api/agents/token?hostname=nid000009'))).body;
    assert.equal((node as { spiffeID: string }).spiffeID, `spiffe://${trustDomain}/h/nid000009`);

    // The same bytes at a server that asks who is there.
    const [refused, unknown, foreign] = [
      await send(config, register),
      await send(config, (url) => empty(url, '/api/agents/token?hostname=nid000009')),
      await send(config, createWorkloads),
    ];
    assert.equal(refused.status, 403);
    assert.match(JSON.stringify(refused.body), /"success":false.*started without --allow-legacy-registration/);
    assert.equal(unknown.status, 401);
    assert.match(JSON.stringify(unknown.body), /"success":false.*needs a proof of possession/);
    assert.equal(foreign.status, 401);
    assert.match(JSON.stringify(foreign.body), /"success":false.*another audience/);
  });

  it('has a server that our client works with: three calls, no proper status, one audience', async () => {
    // What the original's server answers, of which SPIRE, vault and a server in legacy mode do the work.
    const behind = new HttpClient({ url: legacy['hpcs-server'].url, ca, name: 'HPCS server' });
    resources.use(behind);
    const calls: string[] = [];
    let refusing = false;
    const server = createServer((request, response) => {
      void (async () => {
        const { pathname, search } = new URL(request.url ?? '', 'http://x');
        calls.push(pathname);
        const parts: Uint8Array[] = [];
        for await (const part of request) parts.push(part as Uint8Array);
        if (!['/api/client/register', '/api/agents/token', '/api/client/create-workloads'].includes(pathname)) {
          response.writeHead(404, { 'content-type': 'text/html' }).end('<!doctype html>\n<title>404 Not Found</title>\n');
          return;
        }
        if (refusing && pathname === '/api/client/create-workloads') {
          const message = "your SVID doesn't match to your client_id. Please ensure this identity belongs to you";
          response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ success: false, message }));
          return;
        }
        const text = Buffer.concat(parts).toString();
        const { body } = await behind.json('POST', pathname + search, text === '' ? {} : { body: JSON.parse(text) as unknown });
        response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
      })();
    }).listen(0, '127.0.0.1');
    resources.defer(() => void server.close());
    await once(server, 'listening');
    const configuration = join(site.temporary, 'original.conf');
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const usual = await readFile(site.legacyConfiguration, 'utf8');
    const written = usual
      .replace('[hpcs-server]\n', '[hpcs-server]\naudience=TESTING\n')
      .replace(/^url=https:\/\/127\.0\.0\.1:\d+\nca-file=.*\nurl-from-node=https:\/\/hpcs-sandbox-hpcs.*$/m, `url=${url}`)
      .replace('[vault]\n', '[vault]\naudience=TESTING\n')
      .replace('mode=agent', 'mode=auto')
      .replace('[client]\n', '[client]\nallow-insecure-http=true\n');
    await writeFile(configuration, written);
    const prepare = () =>
      site.hpcs(
        [
          'data-prep',
          '-i',
          configuration,
          '-u',
          'alice',
          '-c',
          'nid000001',
          '--data-path',
          'x.tgz',
          '--data-path-at-rest',
          site.scratch,
        ],
        { env: { HPCS_CONFIG: configuration } },
      );
    const prepared = await prepare();
    assert.equal(prepared.code, 0, prepared.stderr);
    assert.equal((await site.run(`ls ${site.scratch}`)).stdout, 'x.tgz\nx.tgz.info.yaml\n');
    assert.ok(calls.includes('/api/capabilities') && calls.includes('/api/client/create-workloads'), calls.join(' '));
    // A refusal with status 200 is one, and leaves nothing.
    refusing = true;
    const refused = await prepare();
    assert.equal(refused.code, 4, refused.stderr);
    assert.match(refused.stderr, /refused \(200\): your SVID doesn't match/);
    assert.equal((await site.run(`ls ${site.scratch}`)).stdout, 'x.tgz\nx.tgz.info.yaml\n');
  });
});

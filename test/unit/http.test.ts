import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer as createPlainServer, type RequestListener } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo, Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { createServer as createTlsServer } from 'node:tls';
import { HpcsError } from '../../src/errors.ts';
import { HttpClient, readCa } from '../../src/http.ts';
import { Secret } from '../../src/secret.ts';
import { vaultClient } from '../../src/vault.ts';
import { makeCertificate } from '../support/certificate.ts';

describe('HTTP client', () => {
  let directory: string;
  let certificate: string;
  let key: string;
  const servers: Server[] = [];

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-http-'));
    ({ certificate, key } = makeCertificate(directory));
  });
  after(() => rm(directory, { recursive: true }));
  afterEach(async () => {
    for (const server of servers.splice(0)) await new Promise((resolve) => server.close(resolve));
  });

  async function listen(server: Server): Promise<number> {
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return (server.address() as AddressInfo).port;
  }
  const serve = async (listener: (...of: Parameters<RequestListener>) => unknown) =>
    `https://127.0.0.1:${await listen(createServer({ cert: certificate, key }, listener))}`;
  const client = (url: string, options: { ca?: string; timeout?: number } = {}) =>
    new HttpClient({ name: 'vault', url, ca: certificate, ...options });

  async function failure(promise: Promise<unknown>): Promise<HpcsError> {
    const error: unknown = await promise.then(
      () => assert.fail('it succeeded'),
      (reason: unknown) => reason,
    );
    assert.ok(error instanceof HpcsError, String(error));
    return error;
  }

  it('takes long lists, but no other long answers', async () => {
    const keys = Array.from({ length: 100_000 }, (_, index) => String(index).padStart(64, 'k'));
    const body = JSON.stringify({ data: { keys } });
    // Node's own server knows no method LIST.
    const server = createTlsServer({ cert: certificate, key }, (socket) => {
      socket.once('data', () =>
        socket.end(`HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`),
      );
      socket.on('error', () => undefined);
    });
    await using http = client(`https://127.0.0.1:${await listen(server)}`);
    assert.deepEqual((await http.json('LIST', '/names')).body, { data: { keys } });
    assert.match((await failure(http.json('GET', '/names'))).message, /200 with more than 4194304 bytes/);
  });

  it('asks a vault in its namespace, and in the root where there is none', async () => {
    const url = await serve(({ headers }, response) => {
      response.end(JSON.stringify({ namespace: headers['x-vault-namespace'] ?? null }));
    });
    for (const namespace of ['research/hpcs', undefined]) {
      await using vault = vaultClient({ url, ca: certificate, namespace });
      assert.deepEqual((await vault.json('GET', '/v1/x')).body, { namespace: namespace ?? null });
    }
  });

  it('sends JSON and secret headers, and reads JSON', async () => {
    const url = await serve(async (request, response) => {
      const { method, url: path, headers } = request;
      response.end(
        JSON.stringify({
          method,
          path,
          token: headers['x-vault-token'],
          type: headers['content-type'],
          body: await text(request),
        }),
      );
    });
    await using http = client(url);
    const answer = await http.json('PUT', '/v1/kv', { body: { a: 1 }, headers: { 'x-vault-token': new Secret('s3cr3t') } });
    assert.deepEqual(answer, {
      status: 200,
      body: { method: 'PUT', path: '/v1/kv', token: 's3cr3t', type: 'application/json', body: '{"a":1}' },
    });
  });

  it('hands on every status, and an empty body as none', async () => {
    const url = await serve((_, response) => void response.writeHead(204).end());
    await using http = client(url);
    assert.deepEqual(await http.json('DELETE', '/'), { status: 204, body: undefined });
    const refusing = await serve((_, response) => void response.writeHead(403).end('{"errors":["permission denied"]}'));
    await using other = client(refusing);
    assert.deepEqual(await other.json('GET', '/'), { status: 403, body: { errors: ['permission denied'] } });
  });

  it('does not follow a redirect, which could carry a token elsewhere', async () => {
    let followed = false;
    const elsewhere = await serve((_, response) => {
      followed = true;
      response.end('{}');
    });
    const url = await serve((_, response) => void response.writeHead(307, { location: elsewhere }).end());
    await using http = client(url);
    assert.deepEqual(await http.json('GET', '/'), { status: 307, body: undefined });
    assert.equal(followed, false);
  });

  it('refuses http:// in any spelling, unless it is allowed', () => {
    for (const url of ['http://127.0.0.1:1', 'HTTP://127.0.0.1:1', 'http:127.0.0.1:1']) {
      assert.throws(() => new HttpClient({ name: 'vault', url }), { code: 'insecure-http', exitCode: 2 }, url);
    }
    assert.equal(new HttpClient({ name: 'vault', url: 'http://127.0.0.1:1', allowInsecureHttp: true }).url, 'http://127.0.0.1:1');
  });

  it('speaks to nobody whose certificate another authority issued', async () => {
    const url = await serve((_, response) => void response.end('{}'));
    await using system = new HttpClient({ name: 'vault', url });
    const error = await failure(system.json('GET', '/'));
    assert.deepEqual([error.code, error.exitCode], ['untrusted-server', 4]);
    assert.match(error.message, new RegExp(`^the certificate of the vault at ${url} is not trusted \\(\\w+\\)$`));
    assert.match(error.suggestion ?? '', /ca-file/);
    await using other = client(url, { ca: makeCertificate(directory, 'other').certificate });
    assert.equal((await failure(other.json('GET', '/'))).code, 'untrusted-server');
  });

  it('speaks to nobody with the certificate of another host', async () => {
    const foreign = makeCertificate(directory, 'foreign', 'DNS:example.org');
    const port = await listen(
      createServer({ cert: foreign.certificate, key: foreign.key }, (_, response) => void response.end('{}')),
    );
    await using http = client(`https://127.0.0.1:${port}`, { ca: foreign.certificate });
    const error = await failure(http.json('GET', '/'));
    assert.equal(error.code, 'untrusted-server');
    assert.match(error.message, /ERR_TLS_CERT_ALTNAME_INVALID/);
  });

  it('tells a missing server from one without TLS', async () => {
    const server = createPlainServer((_, response) => void response.end('{}'));
    const port = await listen(server);
    await using plain = client(`https://127.0.0.1:${port}`);
    assert.match((await failure(plain.json('GET', '/'))).message, /^the vault at \S+ does not speak TLS as it should \(\w+\)$/);
    await new Promise((resolve) => server.close(resolve));
    servers.pop();
    const error = await failure(plain.json('GET', '/'));
    assert.deepEqual([error.code, error.kind, error.exitCode], ['unreachable', 'identity', 4]);
    assert.equal(error.message, `cannot reach the vault at https://127.0.0.1:${port} (connection refused)`);
  });

  it('names a host that does not exist', async () => {
    await using http = client('https://nowhere.invalid');
    assert.match(
      (await failure(http.json('GET', '/'))).message,
      /^cannot reach the vault at https:\/\/nowhere\.invalid \((no such host|the name service does not answer)\)$/,
    );
  });

  it('waits no longer than its limit', async () => {
    const url = await serve(() => {});
    await using http = client(url, { timeout: 50 });
    assert.equal((await failure(http.json('GET', '/'))).message, `cannot reach the vault at ${url} (no answer in time)`);
  });

  it('ends with the reason of the caller when that aborts', async () => {
    const url = await serve(() => {});
    await using http = client(url);
    const abort = new AbortController();
    const reason = new HpcsError('interrupted', 'interrupted', 'interrupted');
    setTimeout(() => abort.abort(reason), 20);
    assert.equal(await failure(http.json('GET', '/', { signal: abort.signal })), reason);
  });

  it('refuses what is not JSON, and what has no end', async () => {
    const page = await serve((_, response) => void response.end('<html>proxy</html>'));
    await using http = client(page);
    const error = await failure(http.json('GET', '/'));
    assert.deepEqual(
      [error.code, error.message],
      ['bad-answer', `the vault at ${page} answered 200 with something that is not JSON`],
    );
    const endless = await serve((_, response) => {
      const more = () => {
        while (response.write(Buffer.alloc(65_536, 32)));
      };
      response.on('drain', more);
      more();
    });
    await using other = client(endless);
    assert.equal(
      (await failure(other.json('GET', '/'))).message,
      `the vault at ${endless} answered 200 with more than 4194304 bytes`,
    );
  });

  it("takes a proxy's page for what its status says, and never for an answer", async () => {
    let status = 502;
    const page = await serve((_, response) => void response.writeHead(status).end('<html>proxy</html>'));
    await using http = client(page);
    for (status of [500, 502, 503, 504]) {
      const { code, message } = await failure(http.json('GET', '/'));
      assert.deepEqual([code, message], ['unreachable', `the vault at ${page} is not there at present (${status})`]);
    }
    status = 404;
    assert.deepEqual(await http.json('GET', '/'), { status: 404, body: undefined });
  });

  it('shows no secret in an error', async () => {
    await using http = client('https://127.0.0.1:1');
    const error = await failure(
      http.json('GET', '/', { headers: { 'x-vault-token': new Secret('s3cr3t') }, body: { jwt: 's3cr3t' } }),
    );
    for (let inner: unknown = error; inner instanceof Error; inner = inner.cause) {
      assert.ok(!JSON.stringify(inner, Object.getOwnPropertyNames(inner)).includes('s3cr3t'));
    }
  });

  describe('ca-file', () => {
    const file = async (content: string): Promise<string> => {
      await writeFile(join(directory, 'ca.pem'), content);
      return join(directory, 'ca.pem');
    };

    it('may be left out', async () => assert.equal(await readCa(undefined), undefined));

    it('may hold several certificates and text between them, of which only the certificates go on', async () => {
      assert.equal(await readCa(await file(`our CA\n${certificate}more\n${certificate}`)), certificate.repeat(2));
    });

    it('holds certificates and nothing else: a key beside them would go to the site', async () => {
      for (const content of [
        '',
        'garbage',
        '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
        `${certificate}${key}`,
        key,
      ]) {
        const error = await failure(readCa(await file(content)));
        assert.deepEqual([error.code, error.exitCode], ['ca-file-unreadable', 2]);
        assert.equal(error.message, `the ca-file ${join(directory, 'ca.pem')} does not hold just certificates in PEM form`);
      }
    });

    it('must be there', async () => {
      assert.equal((await failure(readCa('/nonexistent/ca.pem'))).message, 'cannot read the ca-file /nonexistent/ca.pem: ENOENT');
    });
  });
});

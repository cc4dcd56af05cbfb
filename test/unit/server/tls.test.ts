import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { request, Agent } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { TLSSocket, type Server } from 'node:tls';
import type { FastifyInstance } from 'fastify';
import { openTls, ServerTls, watchCredentials } from '../../../src/server/tls.ts';
import { lonelyApi } from '../../support/api.ts';
import { Authority, type Issued } from '../../support/authority.ts';
import { refused } from '../../support/refused.ts';

const mine = 'URI:spiffe://example.org/c/0123456af/workload';

describe('TLS of the server', () => {
  let directory: string;
  let spire: Authority;
  let web: Authority;
  let foreign: Authority;
  let own: Issued;
  let other: Issued;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-test-'));
    [spire, web, foreign] = ['spire', 'web', 'foreign'].map((name) => new Authority(directory, name)) as [
      Authority,
      Authority,
      Authority,
    ];
    own = web.issue({ names: 'IP:127.0.0.1,DNS:hpcs.example.org' });
    other = web.issue({ names: 'IP:127.0.0.1,DNS:other.example.org' });
  });
  after(() => rm(directory, { recursive: true, force: true }));

  let app: FastifyInstance;
  let tls: ServerTls;
  let authorities: string;
  let port: number;
  let known: PromiseWithResolvers<void>;
  const lines: string[] = [];
  beforeEach(async () => {
    lines.length = 0;
    authorities = spire.certificate;
    known = Promise.withResolvers();
    tls = new ServerTls(
      {
        trustDomain: 'example.org',
        authorities: async () => authorities,
        log: (_level, message) => {
          if (message.startsWith('authorities')) known.resolve();
        },
      },
      own,
    );
    app = lonelyApi({ tls, isOwn: (url) => tls.isOwn(url), log: { write: (line) => void lines.push(line) } });
    await app.listen({ port: 0, host: '127.0.0.1' });
    tls.attach(app.server as unknown as Server);
    port = (app.server.address() as AddressInfo).port;
    await known.promise;
  });
  afterEach(async () => {
    tls[Symbol.dispose]();
    app.server.closeAllConnections();
    await app.close();
  });

  it('asks for an X.509-SVID when there is a server, which can be told what is wrong', async () => {
    const said: string[] = [];
    const first = Promise.withResolvers<void>();
    using following = await openTls(
      {},
      {
        trustDomain: 'example.org',
        authorities: async () => '',
        log: (_level, message) => {
          said.push(message);
          first.resolve();
        },
        socket: `unix://${directory}/none.sock`,
        spiffeId: 'spiffe://example.org/hpcs-server',
      },
    );
    await sleep(50);
    assert.deepEqual(said, []);
    following.attach(app.server as unknown as Server);
    await first.promise;
    assert.deepEqual([...new Set(said)], ['no X.509-SVID of this server at present']);
  });

  /** Calls as a client with this certificate, on a connection of its own or on one of an agent's. */
  const call = async (
    shown: Issued | undefined,
    agent: Agent | false = false,
  ): Promise<{ status: number; message: string; peer: string }> => {
    const sent = request({ host: '127.0.0.1', port, path: '/api/client/token', method: 'POST', ca: web.certificate, agent, ...shown, headers: { 'content-type': 'application/json' } }); // prettier-ignore
    sent.end('{"audience":"vault"}');
    const [answer] = (await once(sent, 'response')) as [import('node:http').IncomingMessage];
    const peer = (answer.socket as TLSSocket).getPeerCertificate().subjectaltname ?? '';
    const { message } = JSON.parse(await text(answer)) as { message: string };
    return { status: answer.statusCode ?? 0, message, peer };
  };

  it('takes a client for the one of its X.509-SVID', async () => {
    assert.deepEqual((await call(spire.issue({ names: mine }))).status, 200);
    const audit = lines.map((line) => JSON.parse(line) as Record<string, unknown>).find((line) => line['audit'] === 'done');
    assert.equal(audit?.['caller'], '0123456af');
    assert.equal(audit?.['by'], 'x509-svid');
  });

  it('serves those who show none, who prove themselves in another way', async () => {
    const { status, message } = await call(undefined);
    assert.equal(status, 401);
    assert.match(message, /needs a proof of possession/);
  });

  const refusals: [what: string, issue: () => Issued, status: number, message: RegExp][] = [
    ['of a foreign authority', () => foreign.issue({ names: mine }), 401, /not issued by this trust domain/],
    ['of the authority of its own certificate', () => web.issue({ names: mine }), 401, /not issued by this trust domain/],
    ['that has expired', () => spire.issue({ names: mine, days: -1 }), 401, /has expired/],
    ['for servers alone', () => spire.issue({ names: mine, usage: 'serverAuth' }), 401, /not one of a client/],
    ['of a node', () => spire.issue({ names: 'URI:spiffe://example.org/h/cn01' }), 403, /no client's workload/],
    ['of a client’s agent', () => spire.issue({ names: 'URI:spiffe://example.org/c/0123456af' }), 403, /no client's workload/],
    ['of a reader', () => spire.issue({ names: 'URI:spiffe://example.org/c/0123456af/s/x' }), 403, /no client's workload/],
    ['of another trust domain', () => spire.issue({ names: mine.replace('example', 'other') }), 403, /no client's workload/],
    ['with two SPIFFE IDs', () => spire.issue({ names: `${mine},${mine.replace('0123', 'ffff')}` }), 401, /exactly one/],
    ['with none', () => spire.issue({ names: 'DNS:hpcs.example.org' }), 401, /exactly one/],
    ['with a path that climbs', () => spire.issue({ names: 'URI:spiffe://example.org/c/x/../0123456af/workload' }), 401, /exactly one/], // prettier-ignore
    ['with an id in another case', () => spire.issue({ names: mine.replace('af/', 'AF/') }), 403, /no client's workload/],
    ['of an authority', () => spire.issue({ names: mine, ca: true }), 401, /not issued by|not one of a client|exactly one/],
  ];
  for (const [what, issue, status, message] of refusals) {
    it(`refuses a certificate ${what}`, async () => {
      const answer = await call(issue());
      assert.equal(answer.status, status, answer.message);
      assert.match(answer.message, message);
      assert.ok(lines.some((line) => line.includes('"audit":"refused"')));
    });
  }

  it('believes no authority before SPIRE was asked: the web’s least of all', async () => {
    using bare = new ServerTls({
      trustDomain: 'example.org',
      authorities: () => Promise.reject(new Error('down')),
      log: () => {},
    });
    assert.deepEqual(bare.serverOptions.ca, []);
  });

  it('believes a withdrawn authority no more, on open connections either', async () => {
    const svid = spire.issue({ names: mine });
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    assert.equal((await call(svid, agent)).status, 200);
    authorities = foreign.certificate;
    known = Promise.withResolvers();
    tls.attach(app.server as unknown as Server);
    await known.promise;
    const { status, message } = await call(svid, agent);
    assert.equal(status, 401);
    assert.match(message, /its authority changed: connect again/);
    agent.destroy();
    assert.match((await call(svid)).message, /not issued by this trust domain/);
  });

  it('takes its new certificate when the files change, and keeps connections', async () => {
    const files = { cert: join(directory, 'tls.crt'), key: join(directory, 'tls.key') };
    await writeFile(files.cert, own.cert);
    await writeFile(files.key, own.key);
    const warned = Promise.withResolvers<string>();
    using _watch = watchCredentials(files, tls, own, (level, message) => level === 'warn' && warned.resolve(message), 20);
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    assert.match((await call(undefined, agent)).peer, /hpcs\.example/);
    assert.ok(tls.isOwn(new URL('https://hpcs.example.org:10080/x')));
    // While files are being exchanged, they do not fit.
    await writeFile(files.cert, other.cert);
    assert.equal(await warned.promise, 'the new certificate is not used');
    assert.match((await call(undefined)).peer, /hpcs\.example/);
    await writeFile(files.key, other.key);
    while (!(await call(undefined)).peer.includes('other.example')) await sleep(20);
    assert.match((await call(undefined, agent)).peer, /hpcs\.example/, 'the open connection is another');
    assert.ok(!tls.isOwn(new URL('https://hpcs.example.org:10080/x')));
    agent.destroy();
  });

  it('refuses a certificate that does not fit its key', () => {
    assert.throws(() => tls.use({ cert: own.cert, key: other.key }), refused('tls-file-invalid'));
    assert.throws(() => tls.use({ cert: 'x', key: 'y' }), refused('tls-file-invalid'));
  });
});

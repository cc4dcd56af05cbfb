import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { HpcsError } from '../../src/errors.ts';
import { HpcsServer } from '../../src/hpcs.ts';
import { Secret } from '../../src/secret.ts';

interface Answer {
  status: number;
  body: unknown;
  type?: string;
}

describe('client of the HPCS server', () => {
  let http: Server;
  let client: HpcsServer;
  let answer: Answer;
  let seen: { method?: string | undefined; url?: string | undefined; body: string };

  beforeEach(async () => {
    http = createServer((request, response) => {
      void (async () => {
        const parts: Uint8Array[] = [];
        for await (const part of request) parts.push(part as Uint8Array);
        seen = { method: request.method, url: request.url, body: Buffer.concat(parts).toString() };
        response.writeHead(answer.status, answer.type === undefined ? {} : { 'content-type': answer.type });
        response.end(typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body));
      })();
    }).listen(0, '127.0.0.1');
    await once(http, 'listening');
    const { port } = http.address() as AddressInfo;
    client = new HpcsServer({ url: `http://127.0.0.1:${port}`, allowInsecureHttp: true });
  });

  afterEach(async () => {
    await client[Symbol.asyncDispose]();
    http.close();
  });

  const grant = () =>
    client.createWorkloads({ jwt: new Secret('j.w.t'), secret: 's', users: ['u'], groups: [], computeNodes: ['n'] });
  const fails = (code: string, message: RegExp) => (error: HpcsError) => {
    assert.equal(error.code, code);
    assert.equal(error.exitCode, 4);
    assert.match(error.message, message);
    return true;
  };

  it('sends and reads what the original sends and reads', async () => {
    answer = {
      status: 200,
      body: {
        success: true,
        message: 'successfully registered',
        clientID: '0123456af',
        spiffeID: 'spiffe://td/c/0123456af/s/s',
        compute_nodes_added: { n: { users: ['u'], groups: [] } },
        secrets_path: 'client_0123456af/s',
        user_role: 'client_0123456af-s',
      },
    };
    assert.deepEqual(await grant(), {
      spiffeId: 'spiffe://td/c/0123456af/s/s',
      secretPath: 'client_0123456af/s',
      role: 'client_0123456af-s',
    });
    assert.equal(seen.url, '/api/client/create-workloads');
    assert.deepEqual(JSON.parse(seen.body), { jwt: 'j.w.t', secret: 's', users: ['u'], groups: null, compute_nodes: ['n'] });

    answer = {
      status: 200,
      body: { success: true, message: '', client_id: '0123456af', spiffeID: 'spiffe://td/c/0123456af', token: 't' },
    };
    const registered = await client.register({ uid: 1000 });
    assert.equal(registered.clientId, '0123456af');
    assert.equal(registered.joinToken.reveal(), 't');
    assert.ok(!JSON.stringify(registered).includes('"t"'));
    assert.deepEqual(JSON.parse(seen.body), { uid: 1000 });

    answer = { status: 200, body: { success: true, message: '', spiffeID: 'spiffe://td/h/cn 1', token: 't' } };
    assert.equal((await client.nodeToken('cn 1&x')).spiffeId, 'spiffe://td/h/cn 1');
    assert.equal(seen.url, '/api/agents/token?hostname=cn%201%26x');
  });

  it('takes a failure with status 200 for a failure', async () => {
    answer = { status: 200, body: { success: false, message: "your SVID doesn't match" } };
    await assert.rejects(grant(), fails('hpcs-refused', /refused \(200\): your SVID doesn't match/));
    answer = { status: 200, body: { success: 'false', message: "Error while creating agent's token" } };
    await assert.rejects(client.register(), fails('hpcs-refused', /Error while creating/));
    answer = { status: 200, body: {} };
    await assert.rejects(client.register(), fails('hpcs-refused', /no reason given/));
  });

  it('names refusals by their status', async () => {
    for (const [status, code] of [
      [400, 'hpcs-bad-request'],
      [401, 'hpcs-unauthenticated'],
      [403, 'hpcs-forbidden'],
      [409, 'hpcs-conflict'],
      [413, 'hpcs-too-large'],
      [503, 'hpcs-unavailable'],
      [500, 'hpcs-unavailable'],
      [502, 'hpcs-unavailable'],
      [504, 'hpcs-unavailable'],
      [418, 'hpcs-refused'],
    ] as const) {
      answer = { status, body: { success: false, message: 'why \u001b[31m\nnot' } };
      const named = fails(code, /: why \?\[31m\?not$/);
      await assert.rejects(grant(), (error: HpcsError) => named(error) && error.suggestion !== undefined);
    }
  });

  it('names refusals by the code of the server, where a caller can come with another key', async () => {
    for (const [status, code] of [
      [403, 'key-ended'],
      [409, 'key-conflict'],
    ] as const) {
      answer = { status, body: { success: false, message: 'not this key', code } };
      const named = fails(`hpcs-${code}`, /not this key/);
      await assert.rejects(
        grant(),
        (error: HpcsError) => named(error) && error.suggestion?.startsWith('come with a new key') === true,
      );
    }
    answer = { status: 409, body: { success: false, message: 'no', code: 'toString' } };
    await assert.rejects(grant(), fails('hpcs-conflict', /no/));
  });

  it('is told of progress by servers that tell, and refused with the status behind it', async () => {
    const type = 'application/x-ndjson';
    const lines = (...all: object[]): Answer => ({
      status: 200,
      type,
      body: all.map((line) => `${JSON.stringify(line)}\n`).join(''),
    });
    const seen: number[][] = [];
    const request = { jwt: new Secret('j.w.t'), secret: 's', users: ['u'], groups: [], computeNodes: ['n'] };
    const ask = () => client.createWorkloads({ ...request, onProgress: (done, total) => void seen.push([done, total]) });
    const progress = { progress: { done: 1, total: 2 } };
    const made = { spiffeID: 'spiffe://td/c/x/s/s', secrets_path: 'client_x/s', user_role: 'r' };
    answer = lines(progress, { status: 200, success: true, ...made });
    assert.equal((await ask()).role, 'r');
    assert.deepEqual(seen, [[1, 2]]);
    answer = lines(progress, { status: 503, success: false, message: 'half' });
    await assert.rejects(ask(), fails('hpcs-unavailable', /refused \(503\): half/));
    answer = lines(progress);
    await assert.rejects(ask(), fails('bad-answer', /not JSON/));
    answer = { status: 200, type, body: '<html>' };
    await assert.rejects(ask(), fails('bad-answer', /not JSON/));
    // However long it is: an error beside the stream would end the process.
    answer = { status: 200, type, body: `${JSON.stringify(progress)}\n`.repeat(200_000) };
    await assert.rejects(ask(), fails('bad-answer', /not JSON/));
  });

  it('does not go on with half an answer', async () => {
    answer = { status: 200, body: { success: true, message: '', spiffeID: 'spiffe://td/c/x', token: 't' } };
    await assert.rejects(client.register(), fails('bad-answer', /without a usable client_id/));
    answer = { status: 200, body: { success: true, client_id: '../etc', spiffeID: 'spiffe://td/c/x', token: 't' } };
    await assert.rejects(client.register(), fails('bad-answer', /client_id/));
    answer = { status: 200, body: '<html>' };
    await assert.rejects(client.register(), fails('bad-answer', /not JSON/));
  });

  it('knows that the original hands out no trust bundle', async () => {
    answer = { status: 404, body: '<!doctype html>' };
    assert.equal(await client.trustBundle(), undefined);
    answer = { status: 404, body: { success: false, message: 'no such call' } };
    assert.equal(await client.trustBundle(), undefined);
    answer = { status: 503, body: { success: false, message: 'down' } };
    await assert.rejects(client.trustBundle(), fails('hpcs-unavailable', /down/));
    answer = { status: 200, body: { success: true, trust_bundle: 'x' } };
    await assert.rejects(client.trustBundle(), fails('bad-answer', /trust_bundle/));
  });
});

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import { SpireConnection, SpireService } from '../../../src/server/spire-connection.ts';
import { Authority } from '../../support/authority.ts';

const empty = { fields: {} };
const methods = { Ask: { requestType: 'Empty', responseType: 'Empty' } };
const bytes = (): Buffer => Buffer.alloc(0);
const hour = 3_600_000;
const id = (path: string): string => `URI:spiffe://example.org/${path}`;

describe('the connection to SPIRE', () => {
  const resources = new AsyncDisposableStack();
  /** Connections that were made to SPIRE, in their order. */
  let links: { client: Socket; server: Socket }[];
  let connection: SpireConnection;
  let fetched = 0;
  /** By how much the clock of the connection is ahead, in milliseconds. */
  let ahead = 0;
  /** The agent that gives identities. */
  let agent: 'there' | 'away';
  const service = (name: string): SpireService => new SpireService(connection, `test.${name}`, methods, { Empty: empty });
  const ask = (of: SpireService, timeout = 10_000): Promise<object> => of.call('Ask', {}, { timeout });

  beforeEach(async () => {
    fetched = 0;
    ahead = 0;
    agent = 'there';
    const directory = await mkdtemp(join(tmpdir(), 'hpcs-test-'));
    resources.defer(() => rm(directory, { recursive: true }));
    const authority = new Authority(directory, 'spire');
    const theirs = authority.issue({ names: id('spire/server') });
    const ours = authority.issue({ names: id('hpcs-server') });
    const spire = new Server();
    for (const name of ['One', 'Two']) {
      const path = { path: `/test.${name}/Ask`, requestStream: false, responseStream: false } as const;
      const codec = { requestDeserialize: bytes, requestSerialize: bytes, responseSerialize: bytes, responseDeserialize: bytes };
      spire.addService(
        { Ask: { ...path, ...codec } },
        { Ask: (_: unknown, done: (e: null, a: object) => void) => done(null, {}) },
      );
    }
    const credentials = ServerCredentials.createSsl(
      Buffer.from(authority.certificate),
      [{ cert_chain: Buffer.from(theirs.cert), private_key: Buffer.from(theirs.key) }],
      true,
    );
    const port = await new Promise<number>((resolve, reject) => {
      spire.bindAsync('127.0.0.1:0', credentials, (error, bound) => (error === null ? resolve(bound) : reject(error)));
    });
    resources.defer(() => spire.forceShutdown());
    // The network between, whose connections can be lost.
    const made: typeof links = [];
    links = made;
    const network = createServer((client) => {
      const server = connect(port, '127.0.0.1');
      made.push({ client, server });
      client.pipe(server).pipe(client);
      for (const socket of [client, server]) socket.on('error', () => undefined);
    }).listen(0, '127.0.0.1');
    await once(network, 'listening');
    resources.defer(() => {
      network.close();
      for (const { client, server } of made) [client, server].forEach((socket) => socket.destroy());
    });
    const svid = async () => {
      fetched += 1;
      if (agent === 'away') throw new Error('the agent is away');
      return { spiffeId: '', ...ours, authorities: authority.certificate, expires: new Date(Date.now() + ahead + hour) };
    };
    const address = { address: '127.0.0.1', port: (network.address() as AddressInfo).port };
    connection = resources.use(new SpireConnection({ ...address, trustDomain: 'example.org', svid }, () => Date.now() + ahead));
  });

  after(() => resources.disposeAsync());

  it('is one for all services, with one identity', async () => {
    await Promise.all([ask(service('One')), ask(service('Two')), ask(service('One'))]);
    assert.equal(links.length, 1);
    assert.equal(fetched, 1);
  });

  it('is made anew when the network lost it without telling, for all services', async () => {
    const [one, two] = [service('One'), service('Two')];
    await Promise.all([ask(one), ask(two)]);
    const [{ client, server } = assert.fail()] = links;
    client.unpipe(server);
    server.unpipe(client);
    await assert.rejects(ask(one, 1200), /DEADLINE_EXCEEDED/);
    await ask(two);
    await ask(one);
    assert.equal(links.length, 2);
    assert.equal(fetched, 2);
  });

  it('is made anew once where many calls fail at once', async () => {
    const one = service('One');
    await ask(one);
    const [{ client, server } = assert.fail()] = links;
    client.unpipe(server);
    server.unpipe(client);
    const failed = await Promise.allSettled(Array.from({ length: 20 }, () => ask(one, 1200)));
    assert.ok(failed.every(({ status }) => status === 'rejected'));
    await Promise.all(Array.from({ length: 20 }, () => ask(one)));
    assert.equal(fetched, 2);
  });

  it('is used while its identity counts, when there is no other yet', async () => {
    const one = service('One');
    await ask(one);
    const first = await connection.dial();
    agent = 'away';
    ahead += hour / 2 - 60_000;
    await ask(one);
    assert.equal(fetched, 1);
    ahead += 60_000;
    for (let call = 0; call < 3; call++) await ask(one);
    assert.equal(await connection.dial(), first);
    assert.equal(fetched, 2);
    ahead += 5000;
    await ask(one);
    assert.deepEqual([fetched, links.length], [3, 1]);
    ahead += hour / 2;
    await assert.rejects(ask(one), /the agent is away/);
    await assert.rejects(ask(one), /the agent is away/);
    agent = 'there';
    await ask(one);
    assert.notEqual(await connection.dial(), first);
    assert.deepEqual([fetched, links.length], [6, 2]);
  });

  it('is replaced when there is a new identity, while calls go on', async () => {
    const one = service('One');
    await ask(one);
    const first = await connection.dial();
    ahead += hour / 2;
    await ask(one);
    assert.notEqual(await connection.dial(), first);
    await ask(one);
    assert.deepEqual([fetched, links.length], [2, 2]);
  });

  it('is not used when nobody answered on it, although its identity counts', async () => {
    await ask(service('One'));
    const first = await connection.dial();
    agent = 'away';
    connection.forget(first);
    ahead += 1000;
    await assert.rejects(ask(service('One')), /the agent is away/);
    agent = 'there';
    await ask(service('One'));
    assert.notEqual(await connection.dial(), first);
  });
});

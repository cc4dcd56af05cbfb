import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, ServerCredentials, type sendUnaryData } from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';
import { parseConfig } from '../../../src/config.ts';
import { HpcsServer } from '../../../src/hpcs.ts';
import { adopt } from '../../../src/identity/agent-identity.ts';
import { AnsweringServer } from '../../support/answering-server.ts';

const spiffeId = 'spiffe://t/c/0123456af/workload';
const part = (content: object): string => Buffer.from(JSON.stringify(content)).toString('base64url');
const token = `${part({ alg: 'ES256' })}.${part({ sub: spiffeId, exp: 9_999_999_999 })}.c2lnbmF0dXJl`;

// @see SPIFFE Workload API, Appendix A (workload.proto)
const { SpiffeWorkloadAPI: service } = fromJSON({
  nested: {
    JWTSVIDRequest: {
      fields: { audience: { rule: 'repeated', type: 'string', id: 1 }, spiffeId: { type: 'string', id: 2 } },
    },
    JWTSVID: { fields: { spiffeId: { type: 'string', id: 1 }, svid: { type: 'string', id: 2 } } },
    JWTSVIDResponse: { fields: { svids: { rule: 'repeated', type: 'JWTSVID', id: 1 } } },
    SpiffeWorkloadAPI: {
      methods: { FetchJWTSVID: { requestType: 'JWTSVIDRequest', responseType: 'JWTSVIDResponse', comment: '' } },
    },
  },
});

describe('the identity that a SPIRE agent gives', () => {
  const resources = new AsyncDisposableStack();
  let directory: string;
  let socket: string;
  let hangs = false;
  /** Told of each request that is not answered. */
  let asked: PromiseWithResolvers<void>;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-test-'));
    resources.defer(() => rm(directory, { recursive: true }));
    socket = join(directory, 'agent.sock');
    const agent = new Server();
    agent.addService(service as Parameters<Server['addService']>[0], {
      FetchJWTSVID: (_: unknown, answer: sendUnaryData<object>) => {
        if (hangs) asked.resolve();
        else answer(null, { svids: [{ spiffeId, svid: token }] });
      },
    });
    await new Promise<void>((resolve, reject) => {
      agent.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
    resources.defer(() => agent.forceShutdown());
  });
  beforeEach(() => ([hangs, asked] = [false, Promise.withResolvers()]));
  after(() => resources.disposeAsync());

  it('is proved for as long as the call may wait, not for as long as the identity might', async () => {
    await using answering = await AnsweringServer.start();
    answering.answer('/api/access/destroy');
    const config = parseConfig(answering.configuration(directory), 'test.conf');
    const command = new AbortController();
    await using identity = await adopt(config, { signal: command.signal, progress: () => undefined }, socket);
    await using server = new HpcsServer({ url: config['hpcs-server'].url, allowInsecureHttp: true });
    hangs = true;
    const call = server.destroySecret('client_0123456af/x', identity.prove, command.signal);
    await asked.promise;
    const reason = new Error('interrupted');
    command.abort(reason);
    await assert.rejects(call, reason);
    assert.deepEqual(answering.asked, []);
    // What takes back what was made goes on.
    hangs = false;
    await server.destroySecret('client_0123456af/x', identity.prove, AbortSignal.timeout(10_000));
    assert.deepEqual(answering.asked, ['/api/access/destroy']);
  });
});

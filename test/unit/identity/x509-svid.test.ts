import assert from 'node:assert/strict';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, ServerCredentials, type ServerWritableStream } from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';
import { fetchX509Svid } from '../../../src/identity/x509-svid.ts';
import { Authority, type Issued } from '../../support/authority.ts';

const spiffeId = 'spiffe://example.org/hpcs-server';

// @see SPIFFE Workload API, Appendix A (workload.proto)
const { SpiffeWorkloadAPI: service } = fromJSON({
  nested: {
    X509SVIDRequest: { fields: {} },
    X509SVID: {
      fields: {
        spiffeId: { type: 'string', id: 1 },
        x509Svid: { type: 'bytes', id: 2 },
        x509SvidKey: { type: 'bytes', id: 3 },
        bundle: { type: 'bytes', id: 4 },
      },
    },
    X509SVIDResponse: { fields: { svids: { rule: 'repeated', type: 'X509SVID', id: 1 } } },
    SpiffeWorkloadAPI: {
      methods: {
        FetchX509SVID: { requestType: 'X509SVIDRequest', responseType: 'X509SVIDResponse', responseStream: true, comment: '' },
      },
    },
  },
});

describe('the X.509-SVID of this process', () => {
  const resources = new AsyncDisposableStack();
  let authority: Authority;
  let socket: string;
  /** What the agent hands out, one after the other. */
  let handedOut: Issued[];

  before(async () => {
    const directory = await mkdtemp(join(tmpdir(), 'hpcs-test-'));
    resources.defer(() => rm(directory, { recursive: true }));
    authority = new Authority(directory, 'spire');
    socket = join(directory, 'agent.sock');
    const agent = new Server();
    agent.addService(service as Parameters<Server['addService']>[0], {
      FetchX509SVID: (call: ServerWritableStream<object, object>) => {
        for (const { cert, key } of handedOut) call.write({ svids: [message(cert, key)] });
      },
    });
    await new Promise<void>((resolve, reject) => {
      agent.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
    resources.defer(() => agent.forceShutdown());
  });

  after(() => resources.disposeAsync());

  const message = (cert: string, key: string): object => ({
    spiffeId,
    x509Svid: new X509Certificate(cert).raw,
    x509SvidKey: createPrivateKey(key).export({ format: 'der', type: 'pkcs8' }),
    bundle: new X509Certificate(authority.certificate).raw,
  });
  const issue = (days: number): Issued => authority.issue({ names: `URI:${spiffeId}`, days });

  it('is the first that has not expired', async () => {
    const [old, fresh] = [issue(-1), issue(1)];
    handedOut = [old, fresh];
    const { cert, expires } = await fetchX509Svid({ socket, spiffeId, timeout: 10_000 });
    assert.equal(new X509Certificate(cert).serialNumber, new X509Certificate(fresh.cert).serialNumber);
    assert.ok(expires.getTime() > Date.now());
  });

  it('is missing, and said to have expired, where the agent has no other', async () => {
    handedOut = [issue(-1)];
    await assert.rejects(fetchX509Svid({ socket, spiffeId, timeout: 500 }), {
      code: 'identity-expired',
      message: `the SPIRE agent has no ${spiffeId} that is still valid`,
      suggestion: "look into the agent's log for why it does not reach the SPIRE server, and check the clocks of both",
    });
  });

  it('is missing where the agent has other identities alone, with the command that shows its entry', async () => {
    handedOut = [issue(1)];
    await assert.rejects(fetchX509Svid({ socket, spiffeId: `${spiffeId}/other`, timeout: 500 }), {
      code: 'no-identity',
      suggestion: `check that its entry has selectors that fit this user and program: spire-server entry show -spiffeID ${spiffeId}/other`,
    });
  });
});

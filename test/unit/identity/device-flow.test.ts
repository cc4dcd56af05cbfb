import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import timers from 'node:timers/promises';
import { HpcsError } from '../../../src/errors.ts';
import { deviceFlow, type DeviceFlowOptions } from '../../../src/identity/device-flow.ts';
import { inPlaceOf } from '../../support/built-in.ts';
import { makeCertificate } from '../../support/certificate.ts';
import { PeopleProvider } from '../../support/issuer.ts';
import { refused } from '../../support/refused.ts';

describe('device flow', () => {
  const resources = new AsyncDisposableStack();
  let tls: { certificate: string; key: string };
  let provider: PeopleProvider;
  let usual: DeviceFlowOptions;

  before(async () => {
    const directory = await mkdtemp(join(tmpdir(), 'hpcs-test-'));
    resources.defer(() => rm(directory, { recursive: true }));
    tls = makeCertificate(directory);
    provider = resources.use(await PeopleProvider.start({ host: '127.0.0.1', tls }, () => ({}), 1));
    const { signal } = new AbortController();
    usual = { issuer: provider.url, clientId: 'hpcs', scope: 'openid', nonce: 'x', ca: tls.certificate, show: () => {}, signal };
  });

  after(() => resources.disposeAsync());

  /** An issuer that answers with what it is told to. */
  const scripted = async (answers: (url: string, form: URLSearchParams) => object | 'cut'): Promise<string> => {
    const server = createServer({ cert: tls.certificate, key: tls.key }, (request, response) => {
      void text(request).then((body) => {
        const answer =
          request.url === '/.well-known/openid-configuration'
            ? { issuer, token_endpoint: `${issuer}/token`, device_authorization_endpoint: `${issuer}/device` }
            : answers(request.url ?? '', new URLSearchParams(body));
        if (answer === 'cut') return request.socket.destroy();
        response.writeHead('error' in answer ? 400 : 200, { 'content-type': 'application/json' });
        return response.end(JSON.stringify(answer));
      });
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    resources.defer(() => (server.closeAllConnections(), void server.close()));
    const issuer = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
    return issuer;
  };
  const started = {
    device_code: 'd',
    user_code: 'ABCD',
    verification_uri: 'https://idp.example.org/device',
    expires_in: 60,
    interval: 0.01,
  };

  it('ends when nobody logged in before the code expired', async () => {
    let shown = '';
    await assert.rejects(
      deviceFlow({ ...usual, show: ({ code }) => (shown = code) }),
      refused('login-expired', /nobody logged in before the code expired/),
    );
    assert.match(shown, /^[A-Z]{4}-[A-Z]{4}$/);
  });

  it('says which program the issuer does not know, and whom it does not trust or reach', async () => {
    await assert.rejects(deviceFlow({ ...usual, clientId: 'nobody' }), refused('login-refused', /invalid_client/));
    await assert.rejects(deviceFlow({ ...usual, ca: undefined }), refused('untrusted-server', /not trusted \(DEPTH_ZERO/));
    await assert.rejects(deviceFlow({ ...usual, issuer: `${provider.url}/` }), refused('login-refused', /by another name/));
    await assert.rejects(deviceFlow({ ...usual, issuer: 'https://127.0.0.1:9999' }), refused('unreachable', /ECONNREFUSED/));
  });

  it('goes on polling where a connection is lost, and ends at once when the user does', async () => {
    let polls = 0;
    const stop = new AbortController();
    const issuer = await scripted((url, form) => {
      if (url === '/device') return started;
      polls += 1;
      assert.equal(form.get('device_code'), 'd');
      if (polls === 2) return 'cut';
      if (polls === 4) stop.abort(new HpcsError('interrupted', 'interrupted', 'interrupted'));
      return { error: 'authorization_pending' };
    });
    await assert.rejects(deviceFlow({ ...usual, issuer, signal: stop.signal }), refused('interrupted'));
    assert.equal(polls, 4);
  });

  it('asks as seldom as the issuer wants', async () => {
    const answers = [
      { error: 'authorization_pending' },
      { error: 'slow_down' },
      { error: 'authorization_pending' },
      { error: 'slow_down' },
    ];
    const waits: number[] = [];
    using _timers = inPlaceOf(timers, 'setTimeout', async <T>(milliseconds = 0, value?: T) => {
      waits.push(milliseconds);
      return value as T;
    });
    const script = (first: object) => {
      const left = [...answers, { error: 'access_denied' }];
      return scripted((url) => (url === '/device' ? first : (left.shift() ?? {})));
    };
    await assert.rejects(deviceFlow({ ...usual, issuer: await script({ ...started, interval: 7 }) }), refused('login-denied'));
    assert.deepEqual(waits.splice(0), [7000, 7000, 12_000, 12_000, 17_000]);
    const { interval: _, ...silent } = started;
    await assert.rejects(deviceFlow({ ...usual, issuer: await script(silent) }), refused('login-denied'));
    assert.deepEqual(waits, [5000, 5000, 10_000, 10_000, 15_000]);
  });

  it('shows no place to log in at that is not https', async () => {
    const issuer = await scripted(() => ({ ...started, verification_uri: 'http://idp.example.org' }));
    const show = (): never => assert.fail('shown');
    await assert.rejects(deviceFlow({ ...usual, issuer, show }), refused('login-refused', /no https page/));
  });

  it('is over with what the issuer says: denied, or no ID token', async () => {
    const answer = (then: object) => scripted((url) => (url === '/device' ? started : then));
    await assert.rejects(deviceFlow({ ...usual, issuer: await answer({ error: 'access_denied' }) }), refused('login-denied'));
    await assert.rejects(deviceFlow({ ...usual, issuer: await answer({ error: 'expired_token' }) }), refused('login-expired'));
    const bare = { access_token: 'a', token_type: 'bearer' };
    await assert.rejects(deviceFlow({ ...usual, issuer: await answer(bare) }), refused('login-refused', /no ID token/));
  });
});

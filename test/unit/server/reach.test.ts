import assert from 'node:assert/strict';
import type { HpcsError } from '../../../src/errors.ts';
import { parseServerConfig } from '../../../src/server/config.ts';
import { ownCertificate, ownToken } from '../../../src/server/reach.ts';
import { lonelyApi } from '../../support/api.ts';

const config = parseServerConfig(
  '[spire-server]\naddress = x\nport = 8081\ntrust-domain = td\n' +
    '[spire-agent]\nspire-agent-socket = /nonexistent/agent.sock\nhpcs-server-spiffeid = spiffe://td/hpcs-server\n' +
    '[vault]\nurl = https://127.0.0.1:1\nserver-role = r\n[tls]\ncert-file = /c\nkey-file = /k\n',
  'x.conf',
);

describe('the identity of the server itself', function () {
  this.timeout(20_000);
  for (const [what, own] of Object.entries({ ownCertificate, ownToken }))
    it(`tells administrators why there is none, and callers nothing of it (${what})`, async () => {
      await assert.rejects(own(config), (error: HpcsError) => {
        assert.equal(error.code, 'identity-unavailable');
        assert.match(
          error.suggestion ?? '',
          /^no SPIRE agent answers at \/nonexistent\/agent\.sock .*spire-agent-socket.*as its user$/,
        );
        return true;
      });
      const api = lonelyApi({ trustBundle: async () => own(config).then(() => assert.fail()) });
      const answer = await api.inject('/api/trust-bundle');
      await api.close();
      assert.equal(answer.statusCode, 503);
      assert.deepEqual(answer.json(), { success: false, message: 'this server has no identity of its own at present' });
    });
});

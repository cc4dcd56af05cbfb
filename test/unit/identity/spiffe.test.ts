import assert from 'node:assert/strict';
import { assert as check, property, string } from 'fast-check';
import { renderAgentConfiguration } from '../../../src/identity/agent.ts';
import { clientOf, formatSpiffeId, parseSpiffeId, spiffeIds } from '../../../src/identity/spiffe-id.ts';
import { socketTarget } from '../../../src/identity/workload-api.ts';

describe('SPIFFE IDs', () => {
  it('are read and written alike', () => {
    for (const text of ['spiffe://td', 'spiffe://example.org/a', 'spiffe://a-b_c.d/c/0123456af/s/x.tgz']) {
      assert.equal(formatSpiffeId(parseSpiffeId(text)), text);
    }
  });

  for (const text of [
    '',
    'spiffe://',
    'https://td/a',
    'spiffe://TD/a',
    'spiffe://td/',
    'spiffe://td//a',
    'spiffe://td/a/',
    'spiffe://td/./a',
    'spiffe://td/a/..',
    'spiffe://td/a b',
    'spiffe://td/ä',
    'spiffe://td/a?b',
    'spiffe://td:1/a',
    'spiffe://td/a\n',
    `spiffe://td/${'a'.repeat(2048)}`,
  ]) {
    it(`are not ${JSON.stringify(text.slice(0, 30))}`, () =>
      assert.throws(() => parseSpiffeId(text), { message: /not a SPIFFE ID/, suggestion: /^write it as spiffe:/ }));
  }

  it('tell the client of a workload, and of nothing else', () => {
    assert.equal(clientOf(spiffeIds.clientWorkload('td', '0123456af')), '0123456af');
    assert.equal(clientOf(spiffeIds.clientAgent('td', '0123456af')), undefined);
    assert.equal(clientOf(spiffeIds.reader('td', '0123456af', 'workload')), undefined);
    assert.equal(clientOf(parseSpiffeId('spiffe://td/c/0123456AF/workload')), undefined);
    assert.equal(clientOf(parseSpiffeId('spiffe://td/c/0123456af0/workload')), undefined);
    assert.equal(clientOf(parseSpiffeId('spiffe://td/x/c/0123456af/workload')), undefined);
  });
});

describe('address of a Workload API', () => {
  const good: [string, string][] = [
    ['unix:///run/spire/api.sock', 'unix:/run/spire/api.sock'],
    ['unix:/run/spire/api.sock', 'unix:/run/spire/api.sock'],
    ['/run/spire/api.sock', 'unix:/run/spire/api.sock'],
    ['tcp://127.0.0.1:8000', 'ipv4:127.0.0.1:8000'],
    ['tcp://[::1]:8000', 'ipv6:[::1]:8000'],
  ];
  for (const [socket, target] of good) it(`may be ${socket}`, () => assert.equal(socketTarget(socket), target));

  for (const socket of [
    '',
    'api.sock',
    'unix://api.sock',
    'unix://host/api.sock',
    'unix:api.sock',
    'unix:////x',
    'unix:///x?q',
    'unix:///x#f',
    'tcp://localhost:1',
    'tcp://127.0.0.1',
    'tcp://127.0.0.1:1/x',
    'http://127.0.0.1:1',
  ]) {
    it(`is not ${JSON.stringify(socket)}`, () => assert.throws(() => socketTarget(socket), { code: 'socket-address-invalid' }));
  }
});

describe('configuration of an agent', () => {
  it('keeps every value, and holds nothing that HCL would replace', () => {
    check(
      property(string({ unit: 'binary' }), (value) => {
        const text = renderAgentConfiguration({ agent: { value: `\${HOME}"${value}` } });
        assert.ok(!text.includes('${'));
        assert.deepEqual(JSON.parse(text), { agent: { value: `\${HOME}"${value}` } });
      }),
    );
  });
});

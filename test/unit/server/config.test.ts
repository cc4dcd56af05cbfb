import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import type { HpcsError } from '../../../src/errors.ts';
import { parseServerConfig } from '../../../src/server/config.ts';
import { spireReach } from '../../../src/server/reach.ts';

const original = `
[spire-server]
address = localhost
port = 8081
trust-domain = hpcs
pre-command = ""
spire-server-bin = spire-server
socket-path = /var/run/sockets/server/api.sock:

[spire-agent]
hpcs-server-spiffeid = spiffe://hpcs/hpcs-server/workload
spire-agent-socket = /tmp/agent.sock

[vault]
url = https://vault:8200/
server-role = hpcs-server
`;
const tls = '[tls]\ncert-file = /c\nkey-file = /k\n';

const refused = (text: string, message: RegExp): void =>
  assert.throws(
    () => parseServerConfig(text, 'x.conf'),
    (error: HpcsError) => error.kind === 'usage' && message.test(error.message),
  );

describe('server configuration', () => {
  it('reads that of the original', () => {
    const config = parseServerConfig(original + tls, 'x.conf');
    assert.equal(config['spire-server']['socket-path'], '/var/run/sockets/server/api.sock');
    assert.equal(config['spire-server']['pre-command'], '');
    assert.equal(config.vault.url, 'https://vault:8200');
    assert.equal(config.listen.port, 10080);
    assert.deepEqual(config.vault.audience, ['vault']);
    assert.deepEqual(config.client, { selectors: [], audience: ['hpcs-server'] });
  });

  it('reads the example', async () => {
    const file = new URL('../../../docker/server/hpcs-server.conf.example', import.meta.url);
    const text = await readFile(file, 'utf8');
    parseServerConfig(text, 'hpcs-server.conf.example');
    // Every key that is only shown must be right as well.
    const shown = text.replaceAll(/^; ([a-z-]+ = |\[issuer )/gm, '$1');
    assert.notEqual(shown, text);
    const config = parseServerConfig(shown, 'hpcs-server.conf.example');
    assert.equal(config['spire-server']['join-token-ttl'], 300);
    assert.deepEqual(config.client.selectors, ['unix:uid:1000']);
    assert.deepEqual(
      config.issuers.map(({ alias }) => alias),
      ['idp', 'github', 'gitlab'],
    );
  });

  it('reads that of the deployment', async () => {
    const file = new URL('../../../docker/deploy/hpcs-server.conf', import.meta.url);
    const config = parseServerConfig(await readFile(file, 'utf8'), 'hpcs-server.conf');
    assert.equal(config.vault.url, 'https://openbao:8200');
  });

  it('has lists', () => {
    const config = parseServerConfig(
      `${original}audience = vault, TESTING\n[client]\naudience=hpcs-server,TESTING\n${tls}`,
      'x.conf',
    );
    assert.deepEqual(config.vault.audience, ['vault', 'TESTING']);
    assert.deepEqual(config.client.audience, ['hpcs-server', 'TESTING']);
  });

  it('takes lists of repeated keys, and URLs in any form', () => {
    const config = parseServerConfig(
      `${original.replace('https://vault:8200/', 'HTTPS://Vault:443/base//')}audience[] = vault\naudience[] = TESTING\n${tls}`,
      'x.conf',
    );
    assert.deepEqual(config.vault.audience, ['vault', 'TESTING']);
    assert.equal(config.vault.url, 'https://vault/base');
    refused(`${original}audience[] =\n${tls}`, /\[vault\] audience: expected at least one audience/);
  });

  it('calls SPIRE over the network with its own identity, unless it names the private socket', () => {
    const confined = parseServerConfig(original.replace(/^socket-path.*$/m, '') + tls, 'x.conf');
    const reach = spireReach(confined);
    assert.ok('address' in reach);
    assert.deepEqual([reach.address, reach.port, reach.trustDomain], ['localhost', 8081, 'hpcs']);
    const elsewhere = spireReach(
      parseServerConfig(original.replace(/^socket-path.*$/m, 'api-address = [::1]:9000') + tls, 'x.conf'),
    );
    assert.ok('address' in elsewhere);
    assert.deepEqual([elsewhere.address, elsewhere.port], ['[::1]', 9000]);
    assert.deepEqual(spireReach(parseServerConfig(original + tls, 'x.conf')), { socket: '/var/run/sockets/server/api.sock' });
  });

  it('keeps everything in a namespace of the vault where one is named', () => {
    const config = parseServerConfig(`${original}namespace = /research/hpcs/\n${tls}`, 'x.conf');
    assert.equal(config.vault.namespace, 'research/hpcs');
    refused(`${original}namespace = a//b\n${tls}`, /\[vault\] namespace: expected a namespace/);
    refused(`${original}namespace = ../root\n${tls}`, /\[vault\] namespace: expected a namespace/);
  });

  it('names what is wrong', () => {
    refused(original.replace('port = 8081', 'port = high') + tls, /x\.conf: \[spire-server\] port: expected a port number/);
    refused(original.replace('[vault]', '[valut]') + tls, /x\.conf: (section \[vault\] is missing|unknown section: valut)/);
    refused(`${original}url2 = x\n${tls}`, /x\.conf: unknown key in section \[vault\]: url2/);
    refused(`${original}audience = ,\n${tls}`, /\[vault\] audience: expected at least one audience/);
    refused(`${original}[nodes]\nallow = cn01, CN02\n${tls}`, /\[nodes\] allow: expected host names in lower case/);
    refused(`${original}[client]\nselectors = uid\n${tls}`, /\[client\] selectors: expected selectors such as/);
    refused(original.replace('spiffe://hpcs/hpcs-server/workload', 'hpcs') + tls, /hpcs-server-spiffeid: expected a SPIFFE ID/);
  });

  for (const [from, to, message] of [
    ...['0x50', '1e3', '" 80"', '', '0', '65536'].map(
      (port) => ['port = 8081', `port = ${port}`, '[spire-server] port: expected a port number, from 1 to 65535'] as const,
    ),
    ['port = 8081', 'port = 8081\njwt-svid-ttl = 0x50', '[spire-server] jwt-svid-ttl: expected seconds, from 60 to 86400'],
    ['[vault]', '[listen]\ndrain =\n[vault]', '[listen] drain: expected seconds, from 0 to 300'],
    ['[vault]', '[limits]\nconnections = 1e3\n[vault]', '[limits] connections: expected a number, 1 or more'],
    ['address = localhost', 'address = "a\u001B[2J"', '[spire-server] address: expected a value without control characters'],
    ['trust-domain = hpcs', 'trust-domain = HPCS', '[spire-server] trust-domain: expected a trust domain: lower-case'],
    ['https://vault:8200/', 'https://me:pw@vault:8200', '[vault] url: expected a URL without user name and password'],
    ['https://vault:8200/', 'https://vault:8200/?x=1', '[vault] url: expected a URL that ends before any ? or #'],
    ['https://vault:8200/', 'ftp://vault:8200', '[vault] url: expected a URL such as https://host:port'],
    [
      'server-role = hpcs-server',
      'server-role = r\nallow-insecure-http = 1',
      '[vault] allow-insecure-http: expected true or false',
    ],
  ] as const) {
    it(`refuses ${JSON.stringify(to)}`, () => {
      assert.throws(
        () => parseServerConfig(original.replace(from, to) + tls, 'x.conf'),
        (error: HpcsError) => error.kind === 'usage' && error.message.startsWith(`x.conf: ${message}`),
      );
    });
  }

  it('takes one certificate, limits and proxies', () => {
    const svid = parseServerConfig(`${original}[tls]\nx509-svid = true\n[monitoring]\nport = 10090\n`, 'x.conf');
    assert.deepEqual(svid.tls, { 'x509-svid': true });
    assert.deepEqual(svid.monitoring, { host: '127.0.0.1', port: 10090 });
    assert.equal(svid.limits['requests-per-address'], 6000);
    assert.equal(svid.limits['waiting-jobs-per-client'], 1000);
    refused(`${original}[tls]\n`, /section \[tls\] (names not exactly one certificate|is missing)/);
    refused(`${original}[tls]\ncert-file = x\n`, /names not exactly one certificate/);
    refused(`${original}${tls}\nx509-svid = true\n`, /names not exactly one certificate/);
    refused(`${original}${tls}\n[limits]\nconnections = 0\n`, /\[limits\] connections: expected a number, 1 or more/);
    refused(`${original}${tls}\n[listen]\ntrusted-proxies = everybody\n`, /trusted-proxies: expected addresses or networks/);
  });

  it('does not listen without TLS unless told so, or on loopback', () => {
    refused(original, /section \[tls\] is missing/);
    refused(`${original}[listen]\nhost = 10.0.0.1\n`, /section \[tls\] is missing/);
    parseServerConfig(`${original}[listen]\nhost = 127.0.0.1\n`, 'x.conf');
    parseServerConfig(`${original}[listen]\nallow-insecure-http = true\n`, 'x.conf');
  });
});

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  certificateAuthority,
  checkHostKey,
  fingerprint,
  keyType,
  knownKeyTypes,
  matchesHost,
  parseKnownHosts,
} from '../../../src/site/known-hosts.ts';

describe('known hosts', () => {
  let directory: string;
  const keys: Record<string, string> = {};

  before(() => {
    directory = mkdtempSync(join(tmpdir(), 'hpcs-known-'));
    for (const [name, type] of [
      ['one', 'ed25519'],
      ['two', 'ed25519'],
      ['ec', 'ecdsa'],
      ['rsa', 'rsa'],
    ] as const) {
      // prettier-ignore
      execFileSync('ssh-keygen', ['-q', '-t', type, '-N', '', '-C', '', '-f', join(directory, name)]);
      keys[name] = readFileSync(join(directory, `${name}.pub`), 'utf8').trim();
    }
  });
  after(() => rmSync(directory, { recursive: true }));

  const wire = (name: string): Buffer => Buffer.from(keys[name]?.split(' ')[1] ?? '', 'base64');
  const check = (content: string, host: string, port: number, key: string) =>
    checkHostKey(parseKnownHosts(content, 'known_hosts'), host, port, wire(key));

  it('prints the fingerprint that ssh-keygen prints', () => {
    for (const name of ['one', 'ec', 'rsa']) {
      const printed = execFileSync('ssh-keygen', ['-lf', join(directory, `${name}.pub`)], { encoding: 'utf8' });
      assert.equal(printed.split(' ')[1], fingerprint(wire(name)));
    }
    assert.equal(keyType(wire('ec')), 'ecdsa-sha2-nistp256');
    assert.equal(keyType(Buffer.from('00000000', 'hex')), undefined);
  });

  it('finds the lines that ssh-keygen -F finds, plain and hashed', () => {
    const fields = [
      'login.example.org',
      '*.example.org',
      'log?n.example.org',
      '!login.example.org,*.example.org',
      '*.example.org,!login.example.org',
      '[login.example.org]:2222',
      '[*.example.org]:2222',
      'a,b,LOGIN.example.org',
      '*',
      '192.0.2.*',
      '**o**g*?',
      'login.example.org.',
    ];
    const names = ['login.example.org', 'other.example.org', '[login.example.org]:2222', '192.0.2.7', 'b', 'example.org'];
    let found = 0;
    const file = join(directory, 'known_hosts');
    writeFileSync(file, `# comment\n\n${fields.map((field) => `${field} ${keys['one']} comment\n`).join('')}`);
    for (const hashed of [false, true]) {
      if (hashed) execFileSync('ssh-keygen', ['-q', '-H', '-f', file], { stdio: 'ignore' });
      const lines = readFileSync(file, 'utf8').split('\n');
      for (const name of names) {
        const { stdout } = spawnSync('ssh-keygen', ['-F', name, '-f', file], { encoding: 'utf8' });
        const keygen = [...stdout.matchAll(/^# Host .* found: line (\d+)/gm)].map(([, number]) => lines[Number(number) - 1]);
        const ours = lines.filter((line) => parseKnownHosts(line, file).some((entry) => matchesHost(entry.hosts, name)));
        assert.deepEqual(ours, keygen, `${name}${hashed ? ', hashed' : ''}`);
        found += ours.length;
      }
    }
    assert.ok(found > 20);
  });

  it('tells match, changed and unknown apart', () => {
    const content = `host ${keys['one']}\nhost ${keys['rsa']}\n[host]:2222 ${keys['two']}\n`;
    assert.equal(check(content, 'host', 22, 'one'), 'match');
    assert.equal(check(content, 'HOST', 22, 'rsa'), 'match');
    assert.equal(check(content, 'host', 22, 'two'), 'changed');
    assert.equal(check(content, 'host', 22, 'ec'), 'unknown');
    assert.equal(check(content, 'elsewhere', 22, 'one'), 'unknown');
    assert.equal(check(content, 'host', 2222, 'two'), 'match');
    assert.equal(check(content, 'host', 2222, 'one'), 'changed');
  });

  it('accepts a key known under the bare name on another port, and no other', () => {
    const content = `host ${keys['one']}\n@revoked host ${keys['rsa']}\n`;
    assert.equal(check(content, 'host', 2200, 'one'), 'match');
    assert.equal(check(content, 'host', 2200, 'two'), 'unknown');
    assert.equal(check(content, 'host', 2200, 'rsa'), 'revoked');
  });

  it('lets a revocation win over every other line', () => {
    const content = `host ${keys['one']}\n@revoked * ${keys['one']}\n`;
    assert.equal(check(content, 'host', 22, 'one'), 'revoked');
    assert.equal(check(`@revoked other ${keys['one']}\nhost ${keys['one']}`, 'host', 22, 'one'), 'match');
  });

  it('does not take an authority for a host key', () => {
    const content = `@cert-authority *.example.org ${keys['one']}\n`;
    assert.equal(check(content, 'login.example.org', 22, 'one'), 'unknown');
    const entries = parseKnownHosts(content, 'f');
    assert.equal(certificateAuthority(entries, 'login.example.org', 22)?.where, 'f:1');
    assert.equal(certificateAuthority(entries, 'login.example.com', 22), undefined);
    assert.deepEqual(knownKeyTypes(entries, 'login.example.org', 22), []);
  });

  it('names the known key types of a host', () => {
    const entries = parseKnownHosts(`[h]:99 ${keys['rsa']}\nh ${keys['one']}\nother ${keys['ec']}\n`, 'f');
    assert.deepEqual(knownKeyTypes(entries, 'h', 99), ['ssh-rsa', 'ssh-ed25519']);
    assert.deepEqual(knownKeyTypes(entries, 'h', 22), ['ssh-ed25519']);
  });

  it('passes over lines that hold no usable key', () => {
    const [type, encoded = ''] = keys['one']?.split(' ') ?? [];
    for (const line of [
      `host ssh-rsa ${encoded}`,
      `host ${type}`,
      `host ${type} %%%`,
      `host ${type} AAAA`,
      `@unknown host ${type} ${encoded}`,
      `@revoked`,
      'host 1024 35 12345678901234567890',
      `#host ${type} ${encoded}`,
      '|1|host',
    ])
      assert.deepEqual(parseKnownHosts(line, 'f'), [], line);
    assert.equal(parseKnownHosts(` \thost\t${type}   ${encoded} a comment\r\n`, 'f').length, 1);
    assert.equal(matchesHost('|1|bad|', 'host'), false);
    assert.equal(matchesHost('|2|AAAA|AAAA', 'host'), false);
  });

  it('matches a pattern of many stars in linear time', () => {
    const start = performance.now();
    assert.equal(matchesHost(`${'*a'.repeat(200)}b`, 'a'.repeat(3000)), false);
    assert.ok(performance.now() - start < 1000);
  });
});

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseConfig } from '../../../src/config.ts';
import { isEncryptedKey, sshDirectories, sshSettings } from '../../../src/site/ssh-settings.ts';
import { translateStderr } from '../../../src/site/openssh-transport.ts';
import { encodeLine } from '../../../src/site/remote-process.ts';
import { quote } from '../../../src/shell.ts';

const config = (lines: string) =>
  parseConfig(
    `[spire-server]\naddress = a\nport = 1\ntrust-domain = t\n[hpcs-server]\nurl = https://a\n[vault]\nurl = https://b\n[supercomputer]\naddress = login.example.org\nusername = alice\n${lines}`,
    'f.conf',
  );

describe('SSH settings', () => {
  let home: string;
  before(async () => {
    home = await mkdtemp(join(tmpdir(), 'hpcs-settings-'));
    await mkdir(join(home, '.ssh'));
  });
  after(() => rm(home, { recursive: true }));

  it('look in $HOME and where containers mount keys', () => {
    assert.deepEqual(sshDirectories({ HOME: '/home/a' }).at(0), '/home/a/.ssh');
    for (const env of [{}, { HOME: '' }, { HOME: 'odd' }, { HOME: home }]) {
      const found = sshDirectories(env, home);
      assert.ok(found.includes(join(home, '.ssh')));
      assert.equal(new Set(found).size, found.length);
    }
  });

  it('look in no place that others have made, or could make yet', async () => {
    const shared = join(home, 'shared');
    const directory = join(shared, '.ssh');
    const listed = (): boolean => sshDirectories({ HOME: '/home/a' }, shared).includes(directory);
    await mkdir(shared);
    assert.equal(listed(), false);
    for (const target of [join(home, '.ssh'), '.ssh']) {
      await symlink(target, directory);
      assert.equal(listed(), false, target);
      await rm(directory);
    }
    await mkdir(directory, { mode: 0o700 });
    assert.equal(listed(), true);
    await chmod(directory, 0o770);
    assert.equal(listed(), false);
  });

  it('find keys in the order of their age, and an agent', async () => {
    for (const name of ['id_rsa', 'id_ed25519']) await writeFile(join(home, '.ssh', name), '');
    const settings = await sshSettings(config(''), undefined, { HOME: home, SSH_AUTH_SOCK: '/run/agent' });
    assert.deepEqual(settings.identityFiles.slice(0, 2), [join(home, '.ssh/id_ed25519'), join(home, '.ssh/id_rsa')]);
    assert.equal(settings.identityChosen, false);
    assert.equal(settings.agent, '/run/agent');
    assert.equal(settings.knownHosts[0], join(home, '.ssh/known_hosts'));
    assert.equal(settings.knownHosts.at(-1), '/etc/ssh/ssh_known_hosts');
    assert.deepEqual([settings.host, settings.port, settings.username], ['login.example.org', undefined, 'alice']);
  });

  it('take what the configuration names instead', async () => {
    await writeFile(join(home, 'key'), '');
    const lines = `identity-file = ~/key\nknown-hosts = ~/hosts, /etc/hosts2\nport = 2222\nhost-key-fingerprint = SHA256:${'A'.repeat(43)}=\nssh-options = ProxyJump=a, KexAlgorithms=x,y,z, Compression yes\n`;
    const settings = await sshSettings(config(lines), 'bob', { HOME: home });
    assert.deepEqual(settings.identityFiles, [join(home, 'key')]);
    assert.deepEqual(settings.knownHosts, [join(home, 'hosts'), '/etc/hosts2']);
    assert.equal(settings.fingerprint, `SHA256:${'A'.repeat(43)}`);
    assert.deepEqual(settings.options, ['ProxyJump=a', 'KexAlgorithms=x,y,z', 'Compression yes']);
    assert.deepEqual([settings.port, settings.username, settings.agent], [2222, 'bob', undefined]);
    await assert.rejects(sshSettings(config('identity-file = /nowhere/key\n'), undefined, {}), {
      code: 'identity-file-missing',
      exitCode: 2,
    });
  });

  it('tell protected keys', async () => {
    for (const [name, options] of Object.entries({
      plain: ['-t', 'ed25519', '-N', ''],
      locked: ['-t', 'ed25519', '-N', 'abcde'],
      pem: ['-t', 'ecdsa', '-m', 'PEM', '-N', 'abcde'],
      open: ['-t', 'ecdsa', '-m', 'PEM', '-N', ''],
    })) {
      // prettier-ignore
      const file = join(home, name);
      execFileSync('ssh-keygen', ['-q', ...options, '-f', file]);
      assert.equal(await isEncryptedKey(file), ['locked', 'pem'].includes(name), name);
    }
    assert.equal(await isEncryptedKey(join(home, 'missing')), false);
  });
});

describe('remote command', () => {
  it('carries any text on one line of ASCII', () => {
    const text = `printf %s ${quote('a\\b\n\t\u0001\u007fé☃$x`!"')}\n`;
    const line = encodeLine(text);
    assert.match(line, /^[\x20-\x7e]*\n$/);
    const script = `IFS= read -r s && eval "$(printf %b "$s")"`;
    for (const shell of ['sh', 'bash'])
      assert.equal(execFileSync(shell, ['-c', script], { input: line }).toString(), 'a\\b\n\t\u0001\u007fé☃$x`!"');
    assert.throws(() => encodeLine('a\0b'), { code: 'nul-character' });
  });
});

describe("ssh's messages", () => {
  const settings = { host: 'h', port: undefined, username: 'u', identityFiles: ['/k'], identityChosen: true, agent: undefined, knownHosts: ['/f'], knownHostsChosen: true, fingerprint: undefined, options: [], timeout: 20 }; // prettier-ignore
  const shown = `debug1: Server host key: ssh-ed25519 SHA256:${'B'.repeat(43)}\r\n`;
  // As OpenSSH 9.2 words them.
  const cases: Array<[code: string, text: string]> = [
    ['ssh-host-not-found', 'ssh: Could not resolve hostname h: Name or service not known'],
    ['ssh-unreachable', 'ssh: connect to host h port 22: Connection refused'],
    ['ssh-unreachable', 'ssh: connect to host h port 22: No route to host'],
    ['ssh-timeout', 'ssh: connect to host h port 22: Connection timed out'],
    ['ssh-timeout', 'Connection timed out during banner exchange'],
    [
      'host-key-unknown',
      `${shown}No ED25519 host key is known for h and you have requested strict checking.\r\nHost key verification failed.`,
    ],
    [
      'host-key-changed',
      `${shown}@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\nOffending ED25519 key in /f:1\r\nHost key verification failed.`,
    ],
    ['host-key-revoked', `${shown}@       WARNING: REVOKED HOST KEY DETECTED!               @\r\nHost key verification failed.`],
    ['ssh-authentication-failed', 'u@h: Permission denied (publickey).'],
    ['ssh-authentication-failed', 'Received disconnect from h port 22:2: Too many authentication failures'],
    ['ssh-handshake-failed', 'Unable to negotiate with h port 22: no matching host key type found. Their offer: ssh-dss'],
    ['ssh-handshake-failed', 'kex_exchange_identification: Connection closed by remote host'],
    ['ssh-option-invalid', 'command-line: line 0: Bad configuration option: nosuch'],
    ['ssh-too-old', 'command-line: line 0: Bad configuration option: knownhostscommand'],
    ['ssh-no-account', 'No user exists for uid 4242\r'],
    ['ssh-unreachable', 'something new'],
    ['ssh-unreachable', ''],
  ];
  for (const [code, text] of cases) {
    it(`${code}: ${text.split('\r\n').at(-1)}`, () => {
      const error = translateStderr(text, settings);
      assert.equal(error.code, code, error.message);
      assert.ok(!error.message.includes('debug1'));
      if (text.startsWith('debug1')) assert.ok(error.message.includes(`ssh-ed25519 SHA256:${'B'.repeat(43)}`), error.message);
    });
  }
});

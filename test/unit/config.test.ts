import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { configCandidates, configSections, loadConfig, parseConfig, withUsername } from '../../src/config.ts';
import { HpcsError } from '../../src/errors.ts';

const minimal = {
  'spire-server': { address: 'spire.lumi.csc.fi', port: '8081', 'trust-domain': 'lumi.csc.fi' },
  'hpcs-server': { url: 'https://hpcs.csc.fi:10080' },
  vault: { url: 'https://vault.csc.fi:8200' },
  supercomputer: { address: 'lumi.csc.fi', username: 'etellier' },
};

type Sections = Record<string, Record<string, string | undefined>>;

/** INI text of {@link minimal} with some keys replaced, or left out where undefined. */
function ini(changes: Sections = {}): string {
  const sections: Sections = { ...minimal };
  for (const [name, keys] of Object.entries(changes)) sections[name] = { ...sections[name], ...keys };
  return Object.entries(sections)
    .map(([name, keys]) => {
      const lines = Object.entries(keys).flatMap(([key, value]) => (value === undefined ? [] : [`${key} = ${value}`]));
      return [`[${name}]`, ...lines, ''].join('\n');
    })
    .join('\n');
}

const parsed = (changes: Sections = {}) => parseConfig(ini(changes), 'hpcs-client.conf');

function refused(content: string, message: string): void {
  assert.throws(
    () => parseConfig(content, 'hpcs-client.conf'),
    (error: unknown) => {
      assert.ok(error instanceof HpcsError, String(error));
      assert.equal(error.message, message);
      assert.deepEqual([error.kind, error.code, error.exitCode], ['usage', 'config-invalid', 2]);
      assert.match(error.suggestion ?? '', /hpcs-client\.conf\.example/);
      return true;
    },
  );
}

/** The example with every optional key switched on. */
const withOptionalKeys = (content: string): string => content.replaceAll(/^; (?=[a-z-]+(\[\])? =)/gm, '');

describe('client configuration', () => {
  describe('hpcs-client.conf.example', () => {
    const bare = 'hpcs-client.conf.example';

    it('is a valid configuration as it stands', async () => {
      const config = parseConfig(await readFile(bare, 'utf8'), bare);
      assert.equal(config.supercomputer.username, 'alice');
    });

    it('is one with every optional key switched on, and shows the default of each that has one', async () => {
      const content = await readFile(bare, 'utf8');
      const short = parseConfig(content, bare);
      const long = parseConfig(withOptionalKeys(content), bare);
      for (const name of Object.keys(configSections) as (keyof typeof configSections)[]) {
        // A key without a default is absent from the short one.
        for (const [key, value] of Object.entries(short[name]))
          assert.deepEqual(Reflect.get(long[name], key), value, `[${name}] ${key}`);
      }
    });

    it('names every section and key, with a sentence above each optional one', async () => {
      const lines = (await readFile(bare, 'utf8')).split('\n');
      const found: string[] = [];
      let section = '';
      for (const [index, line] of lines.entries()) {
        section = /^\[(.*)\]$/.exec(line)?.[1] ?? section;
        const [, optional, key] = /^(; )?([a-z-]+)(?:\[\])? =/.exec(line) ?? [];
        if (key === undefined || section === '') continue;
        found.push(`${section}.${key}`);
        if (optional === undefined) continue;
        const above = lines.slice(0, index).findLast((candidate) => !/^; [a-z-]+(\[\])? =/.test(candidate)) ?? '';
        assert.match(above, /^; .*[.:)]$/, `nothing explains ${section}.${key}`);
      }
      const known = Object.entries(configSections).flatMap(([name, keys]) =>
        Object.keys(keys.shape).map((key) => `${name}.${key}`),
      );
      assert.deepEqual(found.toSorted(), known.toSorted());
    });
  });

  describe('values', () => {
    it("takes the original's sections and keys and adds defaults", () => {
      const config = parsed();
      assert.equal(config['spire-server'].port, 8081);
      assert.equal(config['hpcs-server'].audience, 'hpcs-server');
      assert.equal(config.vault.audience, 'vault');
      assert.equal(config.supercomputer.transport, 'ssh2');
      assert.deepEqual(config.supercomputer['known-hosts'], []);
      assert.equal(config['spire-agent'].bin, 'spire-agent');
      assert.equal(config.client['allow-insecure-http'], false);
      assert.equal(config.file, 'hpcs-client.conf');
    });

    for (const [written, value] of [
      ['"/etc/ca.pem"', '/etc/ca.pem'],
      [`'/etc/ca.pem'`, '/etc/ca.pem'],
      ['/etc/ca.pem ; ours', '/etc/ca.pem'],
      ['/etc/ca.pem # ours', '/etc/ca.pem'],
      ['"/etc/a;b#c.pem"', '/etc/a;b#c.pem'],
      [`'/etc/a;b#c.pem'`, '/etc/a;b#c.pem'],
      ['"/etc/a;b.pem" ; ours', '/etc/a;b.pem'],
      [`'/etc/ca.pem' # ours`, '/etc/ca.pem'],
      [String.raw`"/etc/a \"b\".pem"`, '/etc/a "b".pem'],
      [String.raw`/etc/a\;b.pem`, '/etc/a;b.pem'],
      ['/etc/a=b:c.pem', '/etc/a=b:c.pem'],
      [`'42'`, '42'],
      ['true', 'true'],
      ['null', 'null'],
      ['/etc/søk.pem', '/etc/søk.pem'],
    ] as const) {
      it(`reads ${written} as ${value}`, () => {
        assert.equal(parsed({ vault: { 'ca-file': written } }).vault['ca-file'], value);
      });
    }

    it("reads what Python's configparser reads: colons, upper case, comments behind sections, a byte order mark, CRLF", () => {
      const content = ini().replaceAll(' = ', ': ').replace('address', 'Address').replace('[vault]', '  [vault] ; keys');
      const config = parseConfig(`\uFEFF${content.replaceAll('\n', '\r\n')}`, 'x');
      assert.deepEqual(config, { ...parsed(), file: 'x' });
    });

    it('takes quoted ports, as the original does', () => {
      assert.equal(parsed({ 'spire-server': { port: '"8081"' } })['spire-server'].port, 8081);
      assert.equal(parsed({ 'spire-server': { port: `'8081'` } })['spire-server'].port, 8081);
    });

    it('splits lists at commas, and keeps the commas of repeated keys', () => {
      assert.deepEqual(parsed({ supercomputer: { 'identity-file': '~/.ssh/a , ~/.ssh/b,' } }).supercomputer['identity-file'], [
        '~/.ssh/a',
        '~/.ssh/b',
      ]);
      const twice = ini({ supercomputer: { 'ssh-options[]': 'Ciphers=a,b' } }).concat('ssh-options[] = Compression=no\n');
      assert.deepEqual(parseConfig(twice, 'x').supercomputer['ssh-options'], ['Ciphers=a,b', 'Compression=no']);
    });

    it('writes URLs in one form, so that http:// is recognised in any', () => {
      assert.equal(parsed({ vault: { url: 'HTTPS://Vault.CSC.fi:443/base//' } }).vault.url, 'https://vault.csc.fi/base');
      assert.equal(parsed({ vault: { url: 'HTTP://vault:8200/' } }).vault.url, 'http://vault:8200');
    });

    it('takes yes and no', () => {
      assert.equal(parsed({ client: { 'allow-insecure-http': 'yes' } }).client['allow-insecure-http'], true);
      assert.equal(parsed({ client: { 'allow-insecure-http': 'no' } }).client['allow-insecure-http'], false);
      assert.equal(parsed({ client: { 'allow-insecure-http': 'true' } }).client['allow-insecure-http'], true);
    });
  });

  it('is for another account where a flag says so, and for none that could be an option of a program', () => {
    const config = parsed();
    assert.equal(withUsername(config, undefined), config);
    assert.deepEqual(withUsername(config, 'bob'), { ...config, supercomputer: { ...config.supercomputer, username: 'bob' } });
    for (const name of ['', '-l', 'a b'])
      assert.throws(() => withUsername(config, name), { kind: 'usage', code: 'bad-username' });
  });

  describe('errors name file, section, key and what was expected', () => {
    for (const [changes, message] of [
      [{ 'spire-server': { port: undefined } }, '[spire-server] port: expected a port number, from 1 to 65535'],
      [{ 'spire-server': { port: '' } }, '[spire-server] port: expected a port number, from 1 to 65535'],
      [{ 'spire-server': { port: 'port' } }, '[spire-server] port: expected a port number, from 1 to 65535'],
      [{ 'spire-server': { port: '0x1f' } }, '[spire-server] port: expected a port number, from 1 to 65535'],
      [{ 'spire-server': { port: '-1' } }, '[spire-server] port: expected a port number, from 1 to 65535'],
      [{ 'spire-server': { port: '0' } }, '[spire-server] port: expected a port number, from 1 to 65535'],
      [{ 'spire-server': { port: '70000' } }, '[spire-server] port: expected a port number, from 1 to 65535'],
      [
        { 'spire-server': { 'trust-domain': 'spiffe://x' } },
        '[spire-server] trust-domain: expected a trust domain: lower-case letters, digits, dots, dashes',
      ],
      [{ 'spire-server': { address: '-oProxyCommand=x' } }, '[spire-server] address: expected a host name or address'],
      [{ vault: { url: undefined } }, '[vault] url: expected a URL such as https://host:port'],
      [{ vault: { url: 'https://vault-provider:port' } }, '[vault] url: expected a URL such as https://host:port'],
      [{ vault: { url: 'vault.csc.fi:8200' } }, '[vault] url: expected a URL such as https://host:port'],
      [{ vault: { url: 'ftp://vault.csc.fi' } }, '[vault] url: expected a URL such as https://host:port'],
      [{ vault: { url: 'https://me:pw@vault.csc.fi' } }, '[vault] url: expected a URL without user name and password'],
      [{ vault: { url: '"https://vault.csc.fi/#x"' } }, '[vault] url: expected a URL that ends before any ? or #'],
      [{ vault: { audience: '' } }, '[vault] audience: expected a value'],
      [{ vault: { 'ca-file[]': 'a' } }, '[vault] ca-file: expected a value'],
      [{ vault: { 'ca-file': '"a\u001B[2J"' } }, '[vault] ca-file: expected a value without control characters'],
      [{ supercomputer: { username: undefined } }, '[supercomputer] username: expected a user name'],
      [{ supercomputer: { username: '-l root' } }, '[supercomputer] username: expected a user name'],
      [{ supercomputer: { address: '-oProxyCommand=reboot' } }, '[supercomputer] address: expected a host name or address'],
      [{ supercomputer: { transport: 'telnet' } }, '[supercomputer] transport: expected ssh2 or openssh'],
      [
        { supercomputer: { 'host-key-fingerprint': 'MD5:aa' } },
        '[supercomputer] host-key-fingerprint: expected a fingerprint as ssh-keygen -l prints it: SHA256:…',
      ],
      [
        { supercomputer: { 'node-scratch': 'scratch' } },
        '[supercomputer] node-scratch: expected an absolute path without spaces, quotes, commas or colons',
      ],
      [
        { supercomputer: { 'tool-kit-directory': '/a:/etc' } },
        '[supercomputer] tool-kit-directory: expected an absolute path without spaces, quotes, commas or colons',
      ],
      [{ supercomputer: { apptainer: '--debug' } }, '[supercomputer] apptainer: expected a program or its absolute path'],
      [{ supercomputer: { 'reconnect-limit': '' } }, '[supercomputer] reconnect-limit: expected seconds, from 0 to 86400'],
      [{ supercomputer: { 'reconnect-limit': '1e2' } }, '[supercomputer] reconnect-limit: expected seconds, from 0 to 86400'],
      [{ identity: { 'connect-timeout': '59' } }, '[identity] connect-timeout: expected seconds, from 60 to 604800'],
      [{ client: { 'allow-insecure-http': 'maybe' } }, '[client] allow-insecure-http: expected true or false'],
      [{ client: { 'allow-insecure-http': '' } }, '[client] allow-insecure-http: expected true or false'],
    ] as [Sections, string][]) {
      it(message.replaceAll(/\p{Cc}/gu, '') + ` (${JSON.stringify(changes)})`, () =>
        refused(ini(changes), `hpcs-client.conf: ${message}`),
      );
    }

    it('names a missing section', () => {
      refused(ini().replace(/\[vault\][^[]*/, ''), 'hpcs-client.conf: section [vault] is missing');
      refused('', 'hpcs-client.conf: section [spire-server] is missing');
    });

    it('names the misspelt key rather than the missing one', () => {
      refused(ini().replace('username', 'usrname'), 'hpcs-client.conf: unknown key in section [supercomputer]: usrname');
    });

    it('names unknown sections, also with dots in their names', () => {
      refused(`${ini()}[super.computer]\nx = 1\n`, 'hpcs-client.conf: unknown section: super.computer');
      refused(`${ini()}[vault.url]\nx = 1\n`, 'hpcs-client.conf: unknown section: vault.url');
    });

    it('names what stands before the first section', () => {
      refused(`url = https://x\n${ini()}`, 'hpcs-client.conf: url stands outside of any section');
      refused('{"not": "ini"}', 'hpcs-client.conf: {"not" stands outside of any section');
    });

    it('takes nothing over into the prototype of anything', () => {
      for (const hostile of [
        '[__proto__]\nallow-insecure-http = yes',
        '[client.__proto__]\nallow-insecure-http = yes',
        '[client]\n__proto__ = 1',
        '[client]\n__proto__[] = 1',
        '[constructor]\nprototype = 1',
      ]) {
        try {
          const config = parseConfig(`${hostile}\n${ini()}`, 'x');
          assert.equal(config.client['allow-insecure-http'], false, hostile);
        } catch (error) {
          assert.ok(error instanceof HpcsError, String(error));
        }
        assert.equal(Reflect.get({}, 'allow-insecure-http'), undefined);
      }
    });

    it('shows no control characters of the file', () => {
      refused(`${ini()}[a\u001B[2J]\nx = 1\n`, 'hpcs-client.conf: unknown section: a?[2J');
    });
  });

  describe('search', () => {
    let directory: string;
    beforeEach(async () => {
      directory = await mkdtemp(join(tmpdir(), 'hpcs-config-'));
    });
    afterEach(() => rm(directory, { recursive: true }));

    it('goes from the flag over HPCS_CONFIG and here to XDG and the place of the original', () => {
      assert.deepEqual(configCandidates('a', { HPCS_CONFIG: 'b' }), ['a']);
      assert.deepEqual(configCandidates(undefined, { HPCS_CONFIG: 'b' }), ['b']);
      assert.deepEqual(configCandidates(undefined, { XDG_CONFIG_HOME: '/x' }), [
        'hpcs-client.conf',
        '/x/hpcs/hpcs-client.conf',
        '/tmp/hpcs-client.conf',
      ]);
      assert.deepEqual(configCandidates(undefined, { HOME: '/home/a' })[1], '/home/a/.config/hpcs/hpcs-client.conf');
    });

    it('reads the first that exists', async () => {
      await mkdir(join(directory, 'hpcs'));
      await writeFile(join(directory, 'hpcs/hpcs-client.conf'), ini());
      const config = await loadConfig(undefined, { XDG_CONFIG_HOME: directory });
      assert.equal(config.file, join(directory, 'hpcs/hpcs-client.conf'));
    });

    it('takes none that others could have made or written, unless it is named', async () => {
      const file = join(directory, 'hpcs/hpcs-client.conf');
      await mkdir(join(directory, 'hpcs'));
      const found = { XDG_CONFIG_HOME: directory };
      await writeFile(file, ini());
      await chmod(file, 0o664);
      assert.equal((await loadConfig(undefined, found)).file, file);
      await chmod(file, 0o666);
      await assert.rejects(loadConfig(undefined, found), { code: 'config-of-others', exitCode: 2, suggestion: /--config/ });
      for (const named of [loadConfig(file, found), loadConfig(undefined, { ...found, HPCS_CONFIG: file })])
        assert.equal((await named).file, file);
      await chmod(file, 0o664);
      // There it may be the group of anybody.
      await chmod(join(directory, 'hpcs'), 0o1777);
      await assert.rejects(loadConfig(undefined, found), { code: 'config-of-others' });
      await rm(file);
      // Whoever made it could fill it with what he likes, and take it away before anybody looks whose it is.
      execFileSync('mkfifo', [file]);
      await assert.rejects(loadConfig(undefined, found), { code: 'config-of-others', message: /is no file$/ });
    });

    it('reads ~ as the home in every path of this machine', () => {
      const { client, identity, vault } = parseConfig(
        `${ini()}[client]\nstate-directory = ~/state\nrecipient = ~/cert, age1x\n[identity]\nkey-file = ~/key\n`,
        'x',
      );
      assert.deepEqual(
        [client['state-directory'], client.recipient, identity['key-file'], vault['ca-file']],
        [join(homedir(), 'state'), [join(homedir(), 'cert'), 'age1x'], join(homedir(), 'key'), undefined],
      );
    });

    it('does not pass over one that was named and is missing', async () => {
      for (const [flag, env] of [
        [join(directory, 'none'), {}],
        [undefined, { HPCS_CONFIG: join(directory, 'none') }],
      ] as const) {
        await assert.rejects(loadConfig(flag, env), {
          code: 'config-unreadable',
          exitCode: 2,
          message: `cannot read the configuration ${directory}/none: ENOENT`,
        });
      }
      await assert.rejects(loadConfig(directory, {}), {
        code: 'config-unreadable',
        message: `cannot read the configuration ${directory}: EISDIR`,
      });
    });
  });
});

import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Config, settings, type Interfaces } from '@oclif/core';
import { hpcs as hpcsProcess, type CliExit, type CliOptions } from '../support/cli.ts';
import { hpcsInProcess as hpcs } from '../support/in-process.ts';
import { makeKey } from '../support/sshd.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const configuration = `[spire-server]
address = 127.0.0.1
port = 1
trust-domain = example.org
[hpcs-server]
url = https://127.0.0.1:1
[vault]
url = https://127.0.0.1:1
[identity]
mode = agent
[supercomputer]
address = 127.0.0.1
port = 1
username = alice
identity-file = key
`;
const readers = ['-u', 'alice', '-c', 'nid1', '--data-path-at-rest', '/scratch'];
const job = ['-N', '1', '-p', 'standard', '-t', '"00:10:00"', '-A', 'project', '-s', '/scratch', '-ai', '/scratch/a.info.yaml', '-di', '/scratch/b.info.yaml']; // prettier-ignore
const jobWith = (flag: string, value: string): string[] => job.map((word, at) => (job[at - 1] === flag ? value : word));

/** Every command, from the files in `commands`. */
async function commandNames(): Promise<string[][]> {
  const files = await readdir(join(root, 'commands'), { recursive: true });
  return files.filter((file) => file.endsWith('.ts')).map((file) => file.replace(/\.ts$/, '').split('/'));
}

/** What goes wrong as expected is told in one error, without a stack, and with nothing on standard output. */
function refused(exit: CliExit, code: number, message: RegExp | string, suggestion: RegExp | string): void {
  assert.doesNotMatch(exit.stderr, /^ +at |node:internal|\.ts:\d/m);
  const [first = '', ...rest] = exit.stderr.trimEnd().split('\n').slice(-2);
  const check = (text: string, expected: RegExp | string) =>
    typeof expected === 'string' ? assert.equal(text, expected) : assert.match(text, expected);
  check(first, typeof message === 'string' ? `hpcs: error: ${message}` : message);
  check(rest.join('\n').trim(), suggestion);
  assert.equal(exit.code, code);
}

/** A run that fails as expected. */
interface Case {
  args: readonly string[];
  env?: Record<string, string>;
  code?: number;
  message: RegExp | string;
  next: RegExp | string;
}

const unread = 'cannot read the configuration /nonexistent: ENOENT';

/** Runs that fail as expected, in a directory with the configurations. */
const cases: Record<string, Case> = {
  'a misspelt command': {
    args: ['jop-prep', '-N', '1'],
    message: 'jop-prep is not a command',
    next: 'did you mean: hpcs job-prep',
  },
  'a command unlike any': {
    args: ['frobnicate'],
    message: 'frobnicate is not a command',
    next: 'hpcs --help lists the commands',
  },
  'a misspelt command of a topic': {
    args: ['job', 'result', '77'],
    message: 'job result 77 is not a command',
    next: 'did you mean: hpcs job results',
  },
  'a command without its topic': {
    args: ['results'],
    message: 'results is not a command',
    next: 'did you mean: hpcs job results',
  },
  'a topic without that command': {
    args: ['job', 'frobnicate'],
    message: 'job frobnicate is not a command',
    next: 'hpcs job --help lists the commands',
  },
  'a flag before the command': {
    args: ['--follow', 'job-prep'],
    message: '--follow stands where a command should',
    next: /write flags behind the command/,
  },
  'an unknown flag': {
    args: ['job-prep', ...job, '--bogus'],
    message: 'nonexistent flag: --bogus',
    next: 'see hpcs job-prep --help',
  },
  'missing flags': {
    args: ['data-prep'],
    message: 'missing required flag data-path-at-rest; missing required flag input-path',
    next: 'see hpcs data-prep --help',
  },
  'a missing argument': { args: ['job', 'results'], message: /missing 1 required arg: job/, next: 'see hpcs job results --help' },
  'an argument too many': {
    args: ['job', 'results', '1', '2'],
    message: 'unexpected argument: 2',
    next: 'see hpcs job results --help',
  },
  'a missing configuration': {
    args: ['data-prep', '-i', '.', ...readers, '--config', '/nonexistent'],
    message: unread,
    next: /--config or HPCS_CONFIG/,
  },
  'a missing configuration of HPCS_CONFIG': {
    args: ['data-prep', '-i', '.', ...readers],
    env: { HPCS_CONFIG: '/nonexistent' },
    message: unread,
    next: /--config or HPCS_CONFIG/,
  },
  'a bad configuration': {
    args: ['data-prep', '-i', '.', ...readers, '--config', 'bad.conf'],
    message: 'bad.conf: [hpcs-server] url: expected a URL such as https://host:port',
    next: /hpcs-client\.conf\.example/,
  },
  'an artefact without readers': {
    args: ['data-prep', '-i', '.', '-c', 'nid1', '--data-path-at-rest', '/x', '--config', 'test.conf'],
    message: 'nobody is named who may read the artefact',
    next: /-u or groups with -g/,
  },
  'an artefact without nodes': {
    args: ['data-prep', '-i', '.', '-u', 'a', '--data-path-at-rest', '/x', '--config', 'test.conf'],
    message: /no compute node is named/,
    next: /-c/,
  },
  'data that is not there': {
    args: ['data-prep', '-i', '/nonexistent', ...readers, '--config', 'test.conf'],
    code: 3,
    message: 'cannot read /nonexistent: ENOENT',
    next: /path/,
  },
  'data that is not there, without asking a server for its mode': {
    args: ['data-prep', '-i', '/nonexistent', '-u', 'alice', '--data-path-at-rest', '/scratch', '--config', 'asking.conf'],
    code: 3,
    message: 'cannot read /nonexistent: ENOENT',
    next: /path/,
  },
  'data without a path': {
    args: ['data-prep', '-i', '', ...readers, '--config', 'test.conf'],
    message: 'the path of what is to be packed is empty',
    next: /\. is the working directory/,
  },
  'a sealed file without a name': {
    args: ['data-prep', '-i', 'test.conf', ...readers, '--data-path', '/', '--config', 'test.conf'],
    message: '"" is not a name of a file',
    next: /--data-path/,
  },
  'an image whose sealed file has no name': {
    args: ['container-prep', '-b', 'x', '-e', ...readers, '--data-path', '', '--config', 'test.conf'],
    message: '"" is not a name of a file',
    next: /--data-path/,
  },
  'a place that depends on where the site lets one in': {
    args: ['data-prep', '-i', 'test.conf', '-u', 'a', '-c', 'n', '--data-path-at-rest', '~/data', '--config', 'test.conf'],
    message: 'the directory on the site "~/data" is not an absolute path',
    next: /--data-path-at-rest/,
  },
  'a key file that is not there': {
    args: ['open', 'test.conf', '--key-file', '/nonexistent', '-o', 'out'],
    code: 3,
    message: 'cannot read the key file /nonexistent: ENOENT',
    next: /path/,
  },
  'a key file that holds more than a key': {
    args: ['open', 'test.conf', '--key-file', 'long', '-o', 'out'],
    message: 'the key file long is too long to be a key',
    next: 'give the key and nothing else',
  },
  'a sealed file that is not there': {
    args: ['open', '/nonexistent', '--key-file', 'key', '-o', 'out'],
    code: 3,
    message: 'cannot read /nonexistent: ENOENT',
    next: /path/,
  },
  'a time that is none': {
    args: ['access', 'grant', 'x', '-u', 'a', '--grant-until', 'soon', '--config', 'test.conf'],
    message: '--grant-until: "soon" is neither a time nor a duration',
    next: /30d/,
  },
  'a grant to nobody': {
    args: ['access', 'grant', 'client_0123456af/x', '--config', 'test.conf'],
    message: 'nobody is named who may use the artefact',
    next: /-u or groups of clients with -g/,
  },
  'a grant that is none': {
    args: ['access', 'revoke', 'client_0123456af/x', '--grant', 'abc', '--config', 'test.conf'],
    message: '"abc" is not the id of a grant',
    next: /access list/,
  },
  'a recipient that is not there': {
    args: ['data-prep', '-i', 'test.conf', ...readers, '--recipient', 'none.cert', '--config', 'test.conf'],
    code: 3,
    message: 'cannot read the recipient none.cert: ENOENT',
    next: /OpenPGP certificate, or a public key that begins with age1/,
  },
  'a state directory that others can write to': {
    args: ['job', 'list', '--config', 'test.conf'],
    env: { HPCS_STATE_DIR: '/tmp' },
    code: 3,
    message: 'the state directory /tmp can be written to by others',
    next: /HPCS_STATE_DIR/,
  },
  'a Docker engine that is not there': {
    args: ['container-prep', '-b', 'x', '-s', 'out', '-d', '/nonexistent.sock'],
    code: 3,
    message: 'cannot reach a Docker engine at /nonexistent.sock: ENOENT',
    next: /--docker-path or DOCKER_HOST/,
  },
  'a site that hangs up': {
    args: ['data-prep', '-i', 'test.conf', ...readers, '--config', 'closing.conf'],
    code: 5,
    message: /^hpcs: error: cannot reach 127\.0\.0\.1 port \d+ over SSH: /,
    next: /address and port in section \[supercomputer\]/,
  },
  // The site of this configuration cannot be reached.
  'a number of nodes that is none, before the site is asked': {
    args: ['job-prep', ...jobWith('-N', 'x'), '--config', 'test.conf'],
    message: 'the number of nodes is not a whole number from 1',
    next: /--nodes 1/,
  },
  'a time limit that is none, before the site is asked': {
    args: ['job-prep', ...jobWith('-t', 'soon'), '--config', 'test.conf'],
    message: '"soon" is not a time limit',
    next: /HH:MM:SS/,
  },
  'a pin that is none, before the site is asked': {
    args: ['job-prep', ...jobWith('-di', '/b.info.yaml#sha512:1'), '--config', 'test.conf'],
    message: /what stands behind #sha512: .* is not a SHA-512 digest/,
    next: /128/,
  },
  // Parsed without an error, it goes on to look for a configuration.
  "nothing in the original's flags and in values that look like flags": {
    args: ['job-prep', ...job, '-args', '--json', '-flags', '--bogus', '--config', '/nonexistent', '--', '--bogus'],
    message: unread,
    next: /--config/,
  },
};

describe('command line', () => {
  // Reachable, but hangs up before it says that it speaks SSH.
  const closing = createServer((socket) => socket.destroy());
  let directory: string;
  let env: Record<string, string>;

  const run = (args: readonly string[], changes: Record<string, string> = {}) =>
    hpcs(args, { cwd: directory, env: { ...env, ...changes } });

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-cli-'));
    await new Promise<void>((resolve) => closing.listen(0, '127.0.0.1', resolve));
    const { port } = closing.address() as AddressInfo;
    makeKey(join(directory, 'key'), 'ed25519');
    await writeFile(join(directory, 'long'), Buffer.alloc(64 * 1024 + 1, 'x'), { mode: 0o600 });
    await writeFile(join(directory, 'test.conf'), configuration);
    await writeFile(join(directory, 'asking.conf'), configuration.replace('mode = agent\n', ''));
    await writeFile(join(directory, 'bad.conf'), configuration.replace('https://127.0.0.1:1', 'https://hpcs-server:port'));
    await writeFile(join(directory, 'closing.conf'), configuration.replace('port = 1\nusername', `port = ${port}\nusername`));
    // Neither the configuration nor the keys of whoever runs the tests.
    env = { HOME: directory, XDG_CONFIG_HOME: '', XDG_STATE_HOME: '', HPCS_CONFIG: '', HPCS_STATE_DIR: '', SSH_AUTH_SOCK: '', DOCKER_HOST: '', DEBUG: '', NO_COLOR: '1' }; // prettier-ignore
  });
  after(async () => {
    closing.close();
    await rm(directory, { recursive: true });
  });

  describe('help', () => {
    it('lists every command, without one, with --help, -h and help', async () => {
      const exits: CliExit[] = [];
      for (const args of [[], ['--help'], ['-h'], ['help']]) exits.push(await run(args));
      for (const exit of exits) assert.deepEqual(exit, { code: 0, stdout: exits[0]?.stdout, stderr: '' });
      const topics = new Set((await commandNames()).map(([first = '']) => first));
      for (const topic of topics) assert.match(exits[0]?.stdout ?? '', new RegExp(`^  ${topic} `, 'm'));
    });

    it('of each command says what it is for and how it is called, and explains every flag and argument', async () => {
      const pjson = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as Interfaces.PJSON;
      pjson.oclif.commands = { strategy: 'pattern', target: './commands' };
      settings.enableAutoTranspile = false;
      const { commands } = await Config.load({ root, pjson });
      assert.deepEqual(commands.map(({ id }) => id).toSorted(), (await commandNames()).map((name) => name.join(':')).toSorted());
      for (const { id, summary, description, flags, args } of commands) {
        // oclif keeps them, and wraps the lines between them.
        assert.doesNotMatch(description ?? '', /[^\n]\n[^\n]/, `${id} has line breaks within a paragraph`);
        assert.match(summary ?? '', /^[^.]+$/, `the summary of ${id} is a line without a full stop`);
        for (const [name, flag] of Object.entries(flags).filter(([name]) => name !== 'json'))
          assert.match(flag.summary ?? flag.description ?? '', /\S[^.]*[^.]$/, `${id} --${name}`);
        for (const [name, flag] of Object.entries(flags))
          assert.ok(flag.type === 'boolean' || flag.options !== undefined || flag.helpValue, `${id} --${name} of what form`);
        for (const [name, arg] of Object.entries(args)) assert.match(arg.description ?? '', /^[a-z].*[^.]$/, `${id} ${name}`);
      }
    });

    it('tells the summary of a command once, and all of its description', async () => {
      const { stdout } = await run(['job', 'results', '--help']);
      assert.equal(stdout.split('fetch, check and decrypt').length, 2);
      assert.match(stdout, /The manifest must have been made[^]*A job that was killed/);
    });

    it('shows the flags of the original', async () => {
      const { stdout } = await run(['job-prep', '--help']);
      for (const flag of [
        '-J, --job-name',
        '-N, --nodes',
        '-p, --partition',
        '-t, --time',
        '-A, --account',
        '-w, --nodelist',
        '-s, --workdir',
        '-i, --supplementary-input-scripts',
        '-o, --supplementary-output-scripts',
        '-f, --follow',
        '--application-info',
        '--data-info',
        '--arguments',
        '--singularity-supplementary-flags',
        '--config',
        '-ai',
        '-di',
        '-args',
        '-flags',
      ]) {
        assert.ok(stdout.includes(flag), flag);
      }
    });

    it('and version say which program this is', async () => {
      const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string };
      assert.match((await run(['--version'])).stdout, new RegExp(`^hpcs-client/${version} `));
    });
  });

  describe('refuses', () => {
    for (const [name, { args, env, code = 2, message, next }] of Object.entries(cases)) {
      it(name, async () => {
        const exit = await run(args, env);
        refused(exit, code, message, next);
        assert.equal(exit.stdout, '');
      });
    }
  });

  describe('with --json', () => {
    it('prints an error as one record on standard output', async () => {
      for (const [args, expected] of [
        [
          ['job-prep', ...job, '--config', '/nonexistent', '--json'],
          {
            code: 'config-unreadable',
            kind: 'usage',
            message: 'cannot read the configuration /nonexistent: ENOENT',
            suggestion: 'name another file with --config or HPCS_CONFIG',
          },
        ],
        [
          ['frobnicate', '--json'],
          {
            code: 'command-unknown',
            kind: 'usage',
            message: 'frobnicate is not a command',
            suggestion: 'hpcs --help lists the commands',
          },
        ],
      ] as const) {
        const { code, stdout } = await run(args);
        assert.deepEqual([code, JSON.parse(stdout)], [2, { error: expected }]);
      }
    });

    it('prints a result as one, and nothing else', async () => {
      const { code, stdout, stderr } = await run(['job', 'list', '--config', 'test.conf', '--json']);
      assert.deepEqual([code, JSON.parse(stdout)], [0, []]);
      assert.deepEqual(JSON.parse(stderr), { stage: 'no jobs were submitted from this state directory' });
    });
  });

  it('names every flag that an image which is only written has no use for', async () => {
    const plain = ['container-prep', '-b', 'x', '-s', 'out', '-d', '/nonexistent.sock'];
    const unused = {
      config: 'test.conf',
      'data-path-at-rest': '/scratch',
      username: 'alice',
      users: 'alice',
      groups: 'lab',
      'compute-nodes': 'nid1',
      'bandwidth-limit': '20M',
      recipient: 'age1',
      'grant-until': '2w',
      'grant-jobs': '3',
      format: 'openpgp',
    };
    const { stderr } = await run([...plain, ...Object.entries(unused).flatMap(([name, value]) => [`--${name}`, value])]);
    const names = Object.keys(unused).map((name) => `--${name}`);
    assert.equal(
      stderr.split('\n')[0],
      `warning: without --encrypted nothing is sealed, shipped or granted: ${names.join(', ')} count for nothing`,
    );
    assert.match((await run([...plain, '-c', 'nid1'])).stderr, /^warning: .*: --compute-nodes count/);
    assert.doesNotMatch((await run([...plain, '--data-path', 'x.sif', '--platform', 'linux/arm64'])).stderr, /warning/);
  });

  it('needs no account for its user id, and no home', async () => {
    const through = ['unshare', '--map-user=12345', 'env', '-u', 'HOME', '-u', 'SHELL'];
    const { code, stderr } = await hpcsProcess(['job', 'list'], { through, env: { HPCS_STATE_DIR: '/proc/none' } });
    assert.match(stderr, /^hpcs: error: cannot use the state directory \/proc\/none: ENOENT\n.*\n$/);
    assert.equal(code, 3);
  });

  describe('that is interrupted', () => {
    /** Of `data-prep`, at a site that accepts and says nothing. */
    const interrupted = async (
      run: (args: readonly string[], options: CliOptions) => Promise<CliExit>,
      through: readonly string[] = [],
    ): Promise<CliExit> => {
      const silent = createServer((client) => client.resume());
      await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
      const { port } = silent.address() as AddressInfo;
      await writeFile(join(directory, 'silent.conf'), configuration.replace('port = 1\nusername', `port = ${port}\nusername`));
      const abort = new AbortController();
      silent.once('connection', () => setTimeout(() => abort.abort(), 100));
      const words = ['data-prep', '-i', 'test.conf', ...readers, '--config', 'silent.conf', '--json'];
      const exit = await run(words, { cwd: directory, env, signal: abort.signal, through });
      silent.close();
      assert.equal(exit.code, 130);
      assert.deepEqual(JSON.parse(exit.stdout), { error: { code: 'interrupted', kind: 'interrupted', message: 'interrupted' } });
      return exit;
    };

    it('ends with 130, and cleans up first', async () => {
      const { stderr } = await interrupted(hpcs);
      assert.match(stderr, /hpcs: interrupted, cleaning up \(again to stop at once\)\nhpcs: error: interrupted\n$/);
    });

    // As when a terminal is closed, or the disk that has the log is full.
    for (const gone of ['/dev/full', '>(true)'])
      it(`does so though nobody can hear of it: 2> ${gone}`, async () => {
        const { stderr } = await interrupted(hpcsProcess, ['bash', '-c', `exec "$0" "$@" 2> ${gone}`]);
        assert.equal(stderr, '');
      });
  });
});

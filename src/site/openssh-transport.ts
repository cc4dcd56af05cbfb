import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { HpcsError, systemCode } from '../errors.ts';
import { temporaryDirectory } from '../temporary-directory.ts';
import { isEncryptedKey, type SshSettings } from './ssh-settings.ts';
import { LinkTransport, type Link } from './link-transport.ts';
import { remoteCommand, type Channel } from './remote-process.ts';
import {
  authenticationFailed,
  connectionLost,
  connectTimeout,
  handshakeFailed,
  hostKeyChanged,
  hostKeyRevoked,
  hostKeyUnknown,
  hostNotFound,
  keyEncrypted,
  named,
  noRemoteShell,
  sessionRefused,
  unreachable,
} from './ssh-errors.ts';
import type { Transport } from './transport.ts';

type Child = ChildProcessByStdio<Writable, Readable, Readable>;

/** Longest path of a control socket: sun_path holds 108 bytes, and ssh first makes one with 17 characters more. */
const longestSocket = 85;

/** A pinned key may be of any of these types; ssh shows one at a time. */
const hostKeyChoices = [
  [],
  ['HostKeyAlgorithms=ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521'],
  ['HostKeyAlgorithms=rsa-sha2-512,rsa-sha2-256'],
];

// The first session stays for the whole connection. Its input ends with this process, however that ends, and then it ends too.
const keepAlive = `exec /bin/sh -c 'echo hpcs-connected; exec cat >/dev/null'`;

/**
 * Connects with the system's own `ssh` program, with all that it knows and ssh2 does not: certificates, security keys, jump hosts,
 * GSSAPI, ssh_config. One master connection carries every command; its socket lies in a private directory.
 *
 * @throws HpcsError `site`: unreachable, host key not accepted, no key accepted; `local` without an `ssh` program
 */
export function connectOpenSsh(settings: SshSettings, signal?: AbortSignal): Promise<Transport> {
  return LinkTransport.start((first) => openLink(settings, first), signal);
}

async function openLink(settings: SshSettings, signal: AbortSignal | undefined): Promise<Link> {
  signal?.throwIfAborted();
  const place = join(tmpdir(), 'hpcs-XXXXXX', 'c').length > longestSocket ? '/tmp' : tmpdir();
  const directory = await temporaryDirectory('hpcs-', place);
  try {
    const base = await masterArguments(settings, directory);
    const choices = settings.fingerprint === undefined ? [[]] : hostKeyChoices;
    let mismatch: HpcsError | undefined;
    for (const choice of choices) {
      try {
        const master = await startMaster(settings, [...choice.flatMap((option) => ['-o', option]), ...base], signal);
        return new OpenSshLink(master, settings, directory);
      } catch (error) {
        if (!(error instanceof HpcsError && error.code === 'host-key-changed')) throw mismatch ?? error;
        mismatch ??= error;
      }
    }
    throw mismatch ?? new HpcsError('bug', 'bug', 'no host key choice was tried');
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
}

/** Everything behind `ssh` for the master. The first value of an option counts: ours that protect stand before the user's. */
async function masterArguments(settings: SshSettings, directory: string): Promise<string[]> {
  const options = [
    'BatchMode=yes',
    'StrictHostKeyChecking=yes',
    'UpdateHostKeys=no',
    'ControlMaster=yes',
    'ControlPersist=no',
    `ControlPath=${escapePercent(join(directory, 'c'))}`,
    'ForwardAgent=no',
    'ForwardX11=no',
    'ClearAllForwardings=yes',
    'PermitLocalCommand=no',
    'RemoteCommand=none',
    // Only then does it say which key the host showed.
    'LogLevel=DEBUG1',
    ...(await hostKeyOptions(settings, directory)),
    ...settings.identityFiles.map((file) => `IdentityFile=${quoteOption(file)}`),
    ...settings.options,
    `ConnectTimeout=${settings.timeout}`,
    // The default set, but the fastest first: chacha20, which ssh prefers, is three times slower with AES in the processor.
    'Ciphers=aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr',
    'ServerAliveInterval=15',
    'ServerAliveCountMax=4',
  ];
  return [
    '-T',
    ...options.flatMap((option) => ['-o', option]),
    ...(settings.port === undefined ? [] : ['-p', String(settings.port)]),
    '-l',
    settings.username,
    '--',
    settings.host,
  ];
}

async function hostKeyOptions(settings: SshSettings, directory: string): Promise<string[]> {
  if (settings.fingerprint === undefined) {
    // Left alone, ssh looks at its own files and at what ssh_config names.
    if (settings.knownHostsChosen)
      return [`UserKnownHostsFile=${settings.knownHosts.map(quoteOption).join(' ')}`, 'GlobalKnownHostsFile=none'];
    return [`UserKnownHostsFile=${['~/.ssh/known_hosts2', ...settings.knownHosts].map(quoteOption).join(' ')}`];
  }
  const script = join(directory, 'pin');
  await writeFile(script, `[ "$1" = '${settings.fingerprint}' ] && printf '%s %s %s\\n' "$2" "$3" "$4"\nexit 0\n`, {
    mode: 0o600,
  });
  return ['UserKnownHostsFile=none', 'GlobalKnownHostsFile=none', `KnownHostsCommand=/bin/sh ${quoteOption(script)} %f %H %t %K`];
}

// Inside double quotes of ssh_config; a percent sign would start a token.
function quoteOption(value: string): string {
  return `"${escapePercent(value).replaceAll(/["\\]/g, '\\$&')}"`;
}

function escapePercent(value: string): string {
  return value.replaceAll('%', '%%');
}

async function startMaster(settings: SshSettings, args: readonly string[], signal: AbortSignal | undefined): Promise<Child> {
  const child = spawnSsh([...args, keepAlive]);
  const said = collectText(child.stderr);
  const connected = Promise.withResolvers<boolean>();
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output = (output + chunk.toString('latin1')).slice(-65_536);
    if (output.includes('hpcs-connected\n')) connected.resolve(true);
  });
  const failed = new Promise<boolean>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', () => resolve(false));
  });
  const onAbort = (): void => void child.kill();
  signal?.addEventListener('abort', onAbort);
  // ConnectTimeout covers neither a jump host nor a login shell that never comes back.
  const timer = setTimeout(() => child.kill(), settings.timeout * 3000);
  try {
    if (await Promise.race([connected.promise, failed])) return child;
  } catch (error) {
    throw new HpcsError('local', 'ssh-missing', `cannot run the ssh program: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
      suggestion: 'install the OpenSSH client, or set transport = ssh2 in section [supercomputer]',
    });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
  signal?.throwIfAborted();
  if (said().includes('Authenticated to ')) throw noRemoteShell(child.exitCode, `${output}\n${plainLines(said()).join('\n')}`);
  const error = translateStderr(said(), settings);
  if (error.code !== 'ssh-authentication-failed') throw error;
  // Without a terminal ssh passes over protected keys silently.
  for (const file of settings.identityFiles) if (await isEncryptedKey(file)) throw keyEncrypted(file);
  throw error;
}

function spawnSsh(args: readonly string[]): Child {
  // A group of its own: Ctrl-C on the terminal is for us to act upon, not for ssh.
  const child = spawn('ssh', args, { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
  for (const stream of [child.stdin, child.stdout, child.stderr]) stream.on('error', () => undefined);
  return child;
}

function collectText(stream: Readable): () => string {
  let text = '';
  stream.on('data', (chunk: Buffer) => {
    text = (text + chunk.toString('utf8')).slice(-65_536);
  });
  return () => text;
}

/** What ssh's messages mean, in the words that the other transport uses too. @see OpenSSH sshconnect.c, sshconnect2.c */
export function translateStderr(text: string, settings: SshSettings): HpcsError {
  const { host, username } = settings;
  const port = settings.port ?? 22;
  const place = named(host, port);
  const lines = plainLines(text);
  const cause = new Error(lines.join('\n'));
  const shown = /Server host key: (\S+) (SHA256:[A-Za-z0-9+/]{43})/.exec(text);
  const [type, offered] = [shown?.[1] ?? 'a key', shown?.[2] ?? 'that ssh did not name'];
  if (/marked as revoked|REVOKED HOST KEY/.test(text)) return hostKeyRevoked(host, port, type, offered);
  if (/REMOTE HOST IDENTIFICATION HAS CHANGED/.test(text)) {
    const where = /Offending .* in (.+)$/m.exec(text)?.[1]?.trim() ?? 'known_hosts';
    return hostKeyChanged(host, port, type, offered, `${where} has another`);
  }
  if (/Host key verification failed|host key is known for/.test(text)) {
    return settings.fingerprint === undefined
      ? hostKeyUnknown(host, port, type, offered, settings.knownHosts)
      : hostKeyChanged(host, port, type, offered, `host-key-fingerprint is ${settings.fingerprint}`);
  }
  if (/Could not resolve hostname/.test(text)) return hostNotFound(host, cause);
  if (/Permission denied \(|Too many authentication failures|No more authentication methods/.test(text)) {
    return authenticationFailed(
      username,
      host,
      [...settings.identityFiles, ...(settings.agent === undefined ? [] : ['ssh-agent'])],
      cause,
    );
  }
  const stranger = /^No user exists for uid \d+/m.exec(text)?.[0];
  if (stranger !== undefined) {
    return new HpcsError('local', 'ssh-no-account', `ssh wants an account for whoever runs it: ${stranger}`, {
      cause,
      suggestion: 'run as a user with an account, or set transport = ssh2 in section [supercomputer]',
    });
  }
  if (/timed out/i.test(text)) return connectTimeout(place, settings.timeout, cause);
  if (/Unable to negotiate|no matching|kex_exchange_identification|Bad packet length|banner exchange/.test(text))
    return handshakeFailed(place, lastLine(lines), cause);
  const refused = /connect to (?:host|address) .* port \d+: (.+)$/m.exec(text)?.[1];
  if (refused !== undefined) return unreachable(place, refused.trim().toLowerCase(), cause);
  if (/Bad configuration option: knownhostscommand/.test(text)) {
    return new HpcsError('local', 'ssh-too-old', 'this ssh program cannot pin a fingerprint: that takes OpenSSH 8.5', {
      cause,
      suggestion: 'use known-hosts in place of host-key-fingerprint in section [supercomputer], or transport = ssh2',
    });
  }
  if (/^command-line|Bad configuration option/m.test(text)) {
    return new HpcsError('usage', 'ssh-option-invalid', `ssh refuses its options: ${lastLine(lines)}`, {
      cause,
      suggestion: 'correct ssh-options in section [supercomputer]',
    });
  }
  return unreachable(place, lastLine(lines) || 'ssh ended without a word', cause);
}

function plainLines(text: string): string[] {
  const chatter = /^(debug1:|Authenticated to |Transferred: |Bytes per second: |$)/;
  return text.split(/\r?\n/).map((line) => line.trim()).filter((line) => !chatter.test(line)); // prettier-ignore
}

function lastLine(lines: readonly string[]): string {
  return lines.findLast((line) => line !== '')?.slice(0, 300) ?? '';
}

/** A master connection of the `ssh` program. */
class OpenSshLink implements Link {
  readonly #master: Child;
  readonly #settings: SshSettings;
  readonly #directory: string;
  readonly #closed: Promise<void>;
  #lost: HpcsError | undefined;

  constructor(master: Child, settings: SshSettings, directory: string) {
    this.#master = master;
    this.#settings = settings;
    this.#directory = directory;
    const said = collectText(master.stderr);
    this.#closed = new Promise((resolve) => {
      master.once('close', () => {
        this.#lost ??= connectionLost(settings.host, lastLine(plainLines(said())) || undefined);
        resolve();
      });
    });
  }

  get lost(): HpcsError | undefined {
    return this.#lost;
  }

  async close(): Promise<void> {
    this.#master.stdin.end();
    const soft = setTimeout(() => this.#master.kill(), 2000);
    const hard = setTimeout(() => this.#master.kill('SIGKILL'), 4000);
    await this.#closed;
    clearTimeout(soft);
    clearTimeout(hard);
    await rm(this.#directory, { recursive: true, force: true });
  }

  async open(): Promise<Channel> {
    if (this.#lost !== undefined) throw this.#lost;
    // No configuration and no way to connect by itself: this one only speaks to the master's socket.
    const child = spawnSsh([
      '-F',
      'none',
      '-T',
      '-o',
      'ControlMaster=no',
      '-o',
      `ControlPath=${escapePercent(join(this.#directory, 'c'))}`,
      '-o',
      'ProxyCommand=exit 1',
      '-o',
      'BatchMode=yes',
      '-o',
      'LogLevel=ERROR',
      'site',
      remoteCommand,
    ]);
    const said = collectText(child.stderr);
    const ended = new Promise<{ code: number | null }>((resolve, reject) => {
      child.once('error', (error) => reject(unreachable(this.#settings.host, 'the ssh program cannot be run', error)));
      child.once('close', (code) => {
        // 255 is ssh's own word for trouble, and what it makes of a command that a signal ended.
        if (code !== 255 && code !== null) return resolve({ code });
        void this.#explain(said()).then((error) => (error === undefined ? resolve({ code: null }) : reject(error)));
      });
    });
    return {
      stdin: child.stdin,
      stdout: child.stdout,
      stderr: child.stderr,
      ended,
      close: () => {
        child.kill();
        child.stdout.resume();
      },
    };
  }

  async #explain(said: string): Promise<HpcsError | undefined> {
    if (/session request failed|open failed|Session open refused/i.test(said))
      return sessionRefused(this.#settings.host, new Error(said));
    // The master reports a broken connection a moment after its sessions.
    const limit = Promise.withResolvers<void>();
    const timer = setTimeout(limit.resolve, 200);
    await Promise.race([this.#closed, limit.promise]);
    clearTimeout(timer);
    return this.#lost;
  }
}

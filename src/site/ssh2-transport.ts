import { readFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { NodeSSH } from 'node-ssh';
import ssh2, { type Client, type ClientChannel, type PublicKeyAuthMethod, type AgentAuthMethod } from 'ssh2';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import {
  certificateAuthority,
  checkHostKey,
  fingerprint,
  keyType,
  knownKeyTypes,
  parseKnownHosts,
  type KnownHostEntry,
} from './known-hosts.ts';
import { gatherWrites } from './gather-writes.ts';
import { LinkTransport, type Link } from './link-transport.ts';
import { quickenPackets } from './packet-cipher.ts';
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
  reasonOf,
  sessionRefused,
  unreachable,
} from './ssh-errors.ts';
import { SendQueue } from './send-queue.ts';
import { narrowWindow } from './send-window.ts';
import type { SshSettings } from './ssh-settings.ts';
import type { Transport } from './transport.ts';

/** Signature algorithms for host keys, by key type; SHA-1 ones are left out. @see RFC 8332 */
const hostKeyAlgorithms: Readonly<Record<string, readonly string[]>> = {
  'ssh-ed25519': ['ssh-ed25519'],
  'ecdsa-sha2-nistp256': ['ecdsa-sha2-nistp256'],
  'ecdsa-sha2-nistp384': ['ecdsa-sha2-nistp384'],
  'ecdsa-sha2-nistp521': ['ecdsa-sha2-nistp521'],
  'ssh-rsa': ['rsa-sha2-512', 'rsa-sha2-256'],
};

/** AES-GCM is the fastest by far; ssh2's own default puts another first on some processors. */
const ciphers = ['aes128-gcm@openssh.com', 'aes256-gcm@openssh.com', 'aes128-ctr', 'aes192-ctr', 'aes256-ctr'] as const;

type AuthMethod = PublicKeyAuthMethod | AgentAuthMethod;

/** Keys to try, and what is to be said about them. */
interface Credentials {
  methods: AuthMethod[];
  /** For people: files and `ssh-agent (3 keys)`. */
  tried: string[];
  encrypted: string[];
}

/**
 * Connects with the ssh2 package (through node-ssh). The host's key is checked against known_hosts or the configured fingerprint
 * before anything is sent to it.
 *
 * @throws HpcsError `site`: unreachable, host key not accepted, no key accepted
 */
export function connectSsh2(settings: SshSettings, signal?: AbortSignal): Promise<Transport> {
  return LinkTransport.start((first) => openLink(settings, first), signal);
}

async function openLink(settings: SshSettings, signal: AbortSignal | undefined): Promise<Link> {
  signal?.throwIfAborted();
  const credentials = await gatherCredentials(settings);
  if (credentials.methods.length === 0) throw refused(settings, credentials);
  const port = settings.port ?? 22;
  const known = settings.fingerprint === undefined ? await readKnownHosts(settings.knownHosts) : [];
  // A pinned key may be of any type the host has: what does not fit is asked for no more.
  const types = orderTypes(knownKeyTypes(known, settings.host, port));
  let mismatch: HpcsError | undefined;
  for (;;) {
    const seen: HostKeySeen = {};
    try {
      const socket = new Socket();
      const client = await openClient(settings, socket, credentials, types, known, seen, signal);
      return new Ssh2Link(client, new SendQueue(socket), settings);
    } catch (error) {
      signal?.throwIfAborted();
      if (seen.refusal === undefined) throw mismatch ?? translate(error, settings, credentials);
      mismatch ??= seen.refusal;
      const index = types.indexOf(seen.type ?? '');
      if (settings.fingerprint === undefined || index < 0 || types.length === 1) throw mismatch;
      types.splice(index, 1);
    }
  }
}

/** What the host showed on one attempt. */
interface HostKeySeen {
  type?: string;
  refusal?: HpcsError;
}

async function openClient(
  settings: SshSettings,
  socket: Socket,
  credentials: Credentials,
  types: readonly string[],
  known: readonly KnownHostEntry[],
  seen: HostKeySeen,
  signal: AbortSignal | undefined,
): Promise<Client> {
  const ssh = new NodeSSH();
  const config = {
    sock: socket,
    host: settings.host,
    port: settings.port ?? 22,
    username: settings.username,
    authHandler: credentials.methods,
    readyTimeout: settings.timeout * 1000,
    keepaliveInterval: 15_000,
    keepaliveCountMax: 4,
    algorithms: {
      cipher: [...ciphers],
      serverHostKey: types.flatMap((type) => hostKeyAlgorithms[type] ?? []) as never[],
    },
    hostVerifier: (key: Buffer): boolean => {
      seen.type = keyType(key) ?? 'unknown';
      const refusal = judge(settings, known, key, seen.type);
      if (refusal !== undefined) seen.refusal = refusal;
      return refusal === undefined;
    },
  };
  socket.setNoDelay(true);
  socket.connect({ host: settings.host, port: settings.port ?? 22 });
  gatherWrites(socket);
  const connecting = ssh.connect(config);
  const onAbort = (): void => {
    ssh.connection?.destroy();
  };
  signal?.addEventListener('abort', onAbort);
  // node-ssh takes its own listener away once connected; an error without any would end the process.
  ssh.connection?.on('error', () => undefined);
  try {
    await connecting;
    if (ssh.connection === null) throw connectionLost(settings.host, undefined);
    return ssh.connection;
  } catch (error) {
    ssh.dispose();
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

function judge(settings: SshSettings, known: readonly KnownHostEntry[], key: Buffer, type: string): HpcsError | undefined {
  const port = settings.port ?? 22;
  const offered = fingerprint(key);
  if (settings.fingerprint !== undefined) {
    return offered === settings.fingerprint
      ? undefined
      : hostKeyChanged(settings.host, port, type, offered, `host-key-fingerprint is ${settings.fingerprint}`);
  }
  const verdict = checkHostKey(known, settings.host, port, key);
  if (verdict === 'match') return undefined;
  if (verdict === 'revoked') return hostKeyRevoked(settings.host, port, type, offered);
  if (verdict === 'changed')
    return hostKeyChanged(settings.host, port, type, offered, `${settings.knownHosts.join(', ')} has another`);
  const authority = certificateAuthority(known, settings.host, port);
  if (authority === undefined) return hostKeyUnknown(settings.host, port, type, offered, settings.knownHosts);
  return new HpcsError(
    'site',
    'host-key-certificate',
    `${authority.where} trusts ${named(settings.host, port)} by a certificate authority, which transport = ssh2 cannot check`,
    { suggestion: 'set transport = openssh in section [supercomputer]' },
  );
}

/** Known types first, as OpenSSH asks: else a host with several keys shows one that is not in the file. */
function orderTypes(known: readonly string[]): string[] {
  const all = Object.keys(hostKeyAlgorithms);
  return [...new Set([...known.filter((type) => all.includes(type)), ...all])];
}

async function readKnownHosts(files: readonly string[]): Promise<KnownHostEntry[]> {
  const entries: KnownHostEntry[] = [];
  for (const file of files) {
    try {
      entries.push(...parseKnownHosts(await readFile(file, 'utf8'), file));
    } catch (error) {
      if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') continue;
      throw new HpcsError('local', 'known-hosts-unreadable', `cannot read ${file}: ${systemCode(error) ?? 'unknown error'}`, {
        cause: error,
        suggestion: 'make it readable, or name another as known-hosts in section [supercomputer]',
      });
    }
  }
  return entries;
}

async function gatherCredentials(settings: SshSettings): Promise<Credentials> {
  const files: Credentials = { methods: [], tried: [], encrypted: [] };
  for (const file of settings.identityFiles) await addFile(files, file, settings);
  const agent = await askAgent(settings);
  const [first, second] = settings.identityChosen ? [files, agent] : [agent, files];
  return {
    methods: [...first.methods, ...second.methods],
    tried: [...first.tried, ...second.tried],
    encrypted: files.encrypted,
  };
}

async function addFile(credentials: Credentials, file: string, settings: SshSettings): Promise<void> {
  let content: Buffer;
  try {
    content = await readFile(file);
  } catch (error) {
    if (!settings.identityChosen) return;
    throw badKey(file, systemCode(error) ?? 'unknown error', error);
  }
  const parsed = ssh2.utils.parseKey(content);
  if (parsed instanceof Error) {
    if (/encrypted|passphrase/i.test(parsed.message)) credentials.encrypted.push(file);
    else if (/BEGIN OPENSSH PRIVATE KEY/.test(content.toString('latin1')) && /sk-|unsupported/i.test(parsed.message)) {
      throw new HpcsError('site', 'ssh-key-unsupported', `transport = ssh2 cannot use the key ${file}`, {
        cause: parsed,
        suggestion: 'security keys (FIDO) need transport = openssh in section [supercomputer]',
      });
    } else if (settings.identityChosen) throw badKey(file, parsed.message, parsed);
    return;
  }
  const [key] = Array.isArray(parsed) ? parsed : [parsed];
  if (key === undefined || !key.isPrivateKey()) throw badKey(file, 'it is not a private key');
  credentials.methods.push({ type: 'publickey', username: settings.username, key: content });
  credentials.tried.push(file);
}

function badKey(file: string, why: string, cause?: unknown): HpcsError {
  return new HpcsError('usage', 'identity-file-invalid', `cannot use the identity-file ${file}: ${why}`, {
    cause,
    suggestion: `name a private key of type ed25519, ecdsa or rsa; ssh-keygen -p -f ${file} converts older formats`,
  });
}

// ssh2 reports an agent that does not answer as an error of the whole connection: ask it first.
async function askAgent(settings: SshSettings): Promise<Credentials> {
  const none: Credentials = { methods: [], tried: [], encrypted: [] };
  if (settings.agent === undefined) return none;
  const agent = ssh2.createAgent(settings.agent);
  const count = await new Promise<number>((resolve) => {
    const timer = setTimeout(() => resolve(0), 5000);
    agent.getIdentities((error, keys) => {
      clearTimeout(timer);
      resolve(error ? 0 : (keys?.length ?? 0));
    });
  });
  if (count === 0) return none;
  return {
    methods: [{ type: 'agent', username: settings.username, agent: settings.agent }],
    tried: [`ssh-agent with ${count} key${count === 1 ? '' : 's'}`],
    encrypted: [],
  };
}

function refused(settings: SshSettings, credentials: Credentials, cause?: unknown): HpcsError {
  const [encrypted] = credentials.encrypted;
  return encrypted !== undefined
    ? keyEncrypted(encrypted)
    : authenticationFailed(settings.username, settings.host, credentials.tried, cause);
}

function translate(error: unknown, settings: SshSettings, credentials: Credentials): HpcsError {
  if (error instanceof HpcsError) return error;
  const place = named(settings.host, settings.port ?? 22);
  const level = error instanceof Error && 'level' in error ? error.level : undefined;
  const code = systemCode(error);
  if (level === 'client-authentication') return refused(settings, credentials, error);
  if (level === 'client-dns' || code === 'ENOTFOUND' || code === 'EAI_AGAIN') return hostNotFound(settings.host, error);
  if (level === 'client-timeout') return connectTimeout(place, settings.timeout, error);
  const closed = 'the connection was closed at once';
  // ssh2 sees the end of the stream before, or after, the loss of the socket.
  if (messageOf(error) === 'Connection lost before handshake') return unreachable(place, closed, error);
  if (level === 'handshake' || level === 'protocol') return handshakeFailed(place, messageOf(error), error);
  if (level === 'client-socket') return unreachable(place, reasonOf(error), error);
  return unreachable(place, closed, error);
}

/** A connection of the ssh2 package. */
class Ssh2Link implements Link {
  readonly #client: Client;
  readonly #queue: SendQueue;
  readonly #settings: SshSettings;
  readonly #closed = Promise.withResolvers<void>();
  #lost: HpcsError | undefined;

  constructor(client: Client, queue: SendQueue, settings: SshSettings) {
    this.#client = client;
    this.#queue = queue;
    this.#settings = settings;
    client.on('error', (error) => {
      this.#lost ??= connectionLost(settings.host, reasonOf(error), error);
    });
    client.on('close', () => {
      this.#lost ??= connectionLost(settings.host, undefined);
      this.#closed.resolve();
    });
  }

  get lost(): HpcsError | undefined {
    return this.#lost;
  }

  async close(): Promise<void> {
    this.#client.end();
    const timer = setTimeout(() => this.#client.destroy(), 2000);
    await this.#closed.promise;
    clearTimeout(timer);
  }

  async open(): Promise<Channel> {
    if (this.#lost !== undefined) throw this.#lost;
    quickenPackets(this.#client);
    const opened = new Promise<ClientChannel>((resolve, reject) => {
      try {
        this.#client.exec(remoteCommand, (error, channel) => {
          if (error) reject(this.#lost ?? sessionRefused(this.#settings.host, error));
          else resolve(channel);
        });
      } catch (error) {
        reject(connectionLost(this.#settings.host, messageOf(error), error));
      }
    });
    const gone = this.#closed.promise.then(() => Promise.reject(this.#lost ?? connectionLost(this.#settings.host, undefined)));
    const channel = await Promise.race([opened, gone]);
    return {
      stdin: channel,
      stdout: channel,
      stderr: channel.stderr,
      ended: this.#end(channel),
      close: () => {
        channel.close();
        // Its 'close' event waits for unread output.
        channel.resume();
      },
      narrow: (bytes) => narrowWindow(this.#client, channel, bytes),
      room: () => this.#queue.room(),
    };
  }

  #end(channel: ClientChannel): Promise<{ code: number | null }> {
    return new Promise((resolve, reject) => {
      let exit: { code: number | null } | undefined;
      channel.on('exit', (code: number | null) => {
        exit = { code };
      });
      channel.on('close', () => {
        if (exit !== undefined) resolve(exit);
        // A broken connection closes its channels first and says so itself in the same turn.
        else setImmediate(() => (this.#lost === undefined ? resolve({ code: null }) : reject(this.#lost)));
      });
    });
  }
}

import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { HpcsError, systemCode } from '../errors.ts';
import type { Secret } from '../secret.ts';
import { temporaryDirectory } from '../temporary-directory.ts';

/** How {@link startAgent} starts a SPIRE agent. */
export interface AgentOptions {
  /** The `spire-agent` program: a path, or a name looked up in PATH. */
  bin: string;
  serverAddress: string;
  serverPort: number;
  trustDomain: string;
  /** PEM text of the SPIRE server's authorities. */
  trustBundle?: string | undefined;
  joinToken: Secret;
  /** Directory in which the agent's private directory is made. Default: the system's temporary directory. */
  parent?: string | undefined;
  /** Longest time until the agent serves identities, in milliseconds. Default 30 s. */
  timeout?: number;
  signal?: AbortSignal | undefined;
}

/** A running SPIRE agent of ours. Disposing of it ends the process and removes its directory. */
export interface SpireAgent extends AsyncDisposable {
  /** Address of its Workload API, `unix:///…`. */
  readonly socket: string;
}

// sun_path holds 108 bytes with the final NUL.
const longestSocketPath = 107;
const keptLines = 20;

/** What an agent says when waiting longer would not help. */
const hopeless: readonly (readonly [pattern: RegExp, code: string, message: string, suggestion: string])[] = [
  [
    /join token does not exist or has already been used|join token expired/,
    'join-token-refused',
    'the SPIRE server refused the join token: it was used already, or is too old',
    'try again; a new token is asked for',
  ],
  [
    /could not verify leaf certificate|signed by unknown authority/,
    'spire-untrusted',
    'the SPIRE server is not the one of the trust bundle',
    'check address and port in section [spire-server], and trust-bundle-file where it is set',
  ],
  [
    /no X\.509 bundle found for trust domain|unexpected trust domain/,
    'trust-domain-wrong',
    'the SPIRE server is of another trust domain',
    'correct trust-domain in section [spire-server]',
  ],
];

/**
 * Starts a SPIRE agent that attests with a join token, and waits until it serves identities.
 *
 * Its keys stay in memory. Its directory has mode 0700, because the agent opens its socket to every user.
 *
 * @throws HpcsError `local` when the program cannot run, `identity` when it does not get ready (with its last log lines)
 */
export async function startAgent(options: AgentOptions): Promise<SpireAgent> {
  const { trustBundle } = options;
  if (trustBundle?.includes('-----BEGIN CERTIFICATE-----') !== true) {
    const what = trustBundle === undefined ? 'there is no trust bundle' : 'the trust bundle holds no certificate';
    throw new HpcsError('usage', 'trust-bundle-missing', `${what} to check the SPIRE server with`, {
      suggestion: 'set trust-bundle-file in section [spire-server] (spire-server bundle show prints it)',
    });
  }
  await using cleanup = new AsyncDisposableStack();
  const directory = await temporaryDirectory('hpcs-agent-', options.parent);
  cleanup.defer(() => rm(directory, { recursive: true, force: true }));

  const socketPath = join(directory, 'api.sock');
  if (Buffer.byteLength(socketPath) > longestSocketPath) {
    throw new HpcsError('local', 'socket-path-too-long', `the path ${socketPath} is too long for a socket`, {
      suggestion: 'set TMPDIR to a directory with a shorter name',
    });
  }
  const tokenFile = join(directory, 'token');
  const bundleFile = join(directory, 'bundle.pem');
  await writeFile(tokenFile, options.joinToken.bytes(), { mode: 0o600 });
  await writeFile(bundleFile, trustBundle, { mode: 0o600 });
  const configuration = join(directory, 'agent.conf');
  await writeFile(
    configuration,
    renderAgentConfiguration({
      agent: {
        data_dir: directory,
        log_level: 'WARN',
        log_format: 'json',
        trust_domain: options.trustDomain,
        server_address: options.serverAddress,
        server_port: options.serverPort,
        socket_path: socketPath,
        join_token_file: tokenFile,
        // Our entry is new, and the server's cache learns of it a moment after the agent first asks: ask again soon.
        experimental: { sync_interval: '1s' },
        trust_bundle_path: bundleFile,
      },
      plugins: {
        KeyManager: { memory: { plugin_data: {} } },
        NodeAttestor: { join_token: { plugin_data: {} } },
        WorkloadAttestor: {
          // No digest of Node's 120 MB at every call: entries of ours do not ask for it.
          unix: {
            plugin_data: { discover_workload_path: true, workload_size_limit: -1 },
          },
        },
      },
    }),
    { mode: 0o600 },
  );

  const agent = new AgentProcess(options.bin, ['run', '-config', configuration], directory, options.joinToken);
  cleanup.use(agent);
  await agent.ready(socketPath, options.timeout ?? 30_000, options.signal);
  await rm(tokenFile, { force: true });

  const owned = cleanup.move();
  return { socket: `unix://${socketPath}`, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The text of an agent's configuration: JSON, which HCL takes too, with its `${` made harmless. */
export function renderAgentConfiguration(configuration: object): string {
  return JSON.stringify(configuration, null, 2).replaceAll('${', '\\u0024{');
}

/** What is wrong according to a line of the agent's log, which is JSON once its configuration was read; else nothing. */
function readLogLine(line: string): string {
  try {
    const { msg, error } = JSON.parse(line) as { msg?: unknown; error?: unknown };
    return typeof error === 'string' ? `${String(msg)}: ${error}` : '';
  } catch {
    return line;
  }
}

/** How a shell ends where it cannot start a program. @see POSIX.1-2024, Shell & Utilities, 2.8.2 */
const execFailures: Readonly<Record<number, string>> = { 126: 'EACCES', 127: 'ENOENT' };

const setpriv = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path));

/**
 * A command line for a program that the kernel ends when this process ends, even by SIGKILL, which nothing can clean up after.
 *
 * Where setpriv (util-linux) is not installed it is the program's own, and the program would outlive us.
 *
 * @see prctl(2), PR_SET_PDEATHSIG
 */
export function endingWithUs(command: readonly string[]): string[] {
  if (setpriv === undefined) return [...command];
  // Who is gone before the kernel was asked sends no signal any more: then it is another's child, and does not begin.
  const unlessOrphaned = '[ "$PPID" = "$0" ] && exec "$@"';
  return [setpriv, '--pdeathsig', 'KILL', '--', '/bin/sh', '-c', unlessOrphaned, String(process.pid), ...command];
}

class AgentProcess implements AsyncDisposable {
  readonly #process: ChildProcess;
  readonly #exited: Promise<void>;
  readonly #lines: string[] = [];
  readonly #bin: string;
  #failure: Error | undefined;
  #ended = false;

  constructor(bin: string, arguments_: string[], directory: string, secret: Secret) {
    this.#bin = bin;
    // A process group of its own: Ctrl-C reaches us, and we end the agent after what still needs it.
    const [program = bin, ...words] = endingWithUs([bin, ...arguments_]);
    this.#process = spawn(program, words, {
      cwd: directory,
      env: agentEnvironment(process.env),
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    this.#exited = new Promise((resolve) => {
      const end = (): void => {
        this.#ended = true;
        resolve();
      };
      this.#process.once('exit', end);
      this.#process.once('error', (error) => {
        this.#failure = error;
        end();
      });
    });
    // Kept as text: the caller may overwrite the secret while the agent still writes.
    const token = secret.reveal();
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      if (stream === null) continue;
      createInterface({ input: stream }).on('line', (line) => {
        const shown = readLogLine(line).replaceAll(token, '[redacted]');
        if (shown !== '') this.#lines.push(shown);
        if (this.#lines.length > keptLines) this.#lines.shift();
      });
    }
  }

  /** Waits until the socket accepts connections: the agent opens it once it is attested. */
  async ready(socketPath: string, timeout: number, signal: AbortSignal | undefined): Promise<void> {
    const end = Date.now() + timeout;
    while (!(await accepts(socketPath))) {
      signal?.throwIfAborted();
      if (this.#ended) throw await this.#died();
      for (const [pattern, code, message, suggestion] of hopeless) {
        // The agent itself would try again for ever.
        if (this.#lines.some((line) => pattern.test(line))) throw new HpcsError('identity', code, message, { suggestion });
      }
      if (Date.now() > end) {
        throw new HpcsError('identity', 'agent-not-ready', `${this.#bin} was not ready after ${timeout / 1000} s${this.#log()}`, {
          suggestion: 'check address and port in section [spire-server]',
        });
      }
      await Promise.race([sleep(50), this.#exited]);
    }
  }

  async #died(): Promise<HpcsError> {
    if (this.#failure !== undefined) {
      return this.#notStarted(systemCode(this.#failure) ?? 'unknown error');
    }
    // The last lines may still be in the pipe.
    await sleep(50);
    const unstarted = execFailures[this.#process.exitCode ?? 0];
    if (unstarted !== undefined && endingWithUs([]).length > 0) return this.#notStarted(unstarted);
    const how = this.#process.signalCode ?? `status ${this.#process.exitCode}`;
    return new HpcsError('identity', 'agent-died', `${this.#bin} ended with ${how}${this.#log()}`, {
      suggestion: 'check that it is a current spire-agent, and section [spire-server]',
    });
  }

  #notStarted(why: string): HpcsError {
    return new HpcsError('local', 'agent-not-started', `cannot run ${this.#bin}: ${why}`, {
      cause: this.#failure,
      suggestion: 'install spire-agent, and name it as bin in section [spire-agent]',
    });
  }

  #log(): string {
    return this.#lines.length === 0 ? '' : `:\n  ${this.#lines.slice(-3).join('\n  ')}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ended) return;
    this.#process.kill('SIGTERM');
    await Promise.race([this.#exited, sleep(3000, undefined, { ref: false })]);
    // The exit event may have set it meanwhile, which the compiler does not see.
    if (!(this.#ended as boolean)) this.#process.kill('SIGKILL');
    await this.#exited;
  }
}

// The agent needs no variable of ours but those that say how to reach a server.
function agentEnvironment(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const wanted = /^(PATH|LANG|LC_ALL|(HTTPS?|ALL|NO)_PROXY)$/i;
  return Object.fromEntries(Object.entries(env).filter(([name]) => wanted.test(name)));
}

function accepts(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const settle = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.once('connect', () => settle(true));
    socket.once('error', () => settle(false));
  });
}

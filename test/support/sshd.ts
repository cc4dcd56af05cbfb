import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** User id of the accounts that exist for the server only. */
const uid = 64_321;

/** Accounts of the server, by login shell. */
export const accounts = {
  alice: '/bin/bash',
  carol: '/bin/tcsh',
  dave: '/bin/dash',
  nobody2: '/usr/sbin/nologin',
} as const;

/**
 * A real OpenSSH server on a loopback port, with host keys, accounts and a 1 MiB file system of its own. The accounts and the file
 * system exist in its mount namespace only and are gone with it.
 */
export class Sshd implements AsyncDisposable {
  readonly directory: string;
  readonly port: number;
  readonly #options: string[];
  readonly #log: string[] = [];
  #child: ChildProcess | undefined;

  private constructor(directory: string, port: number, options: string[]) {
    this.directory = directory;
    this.port = port;
    this.#options = options;
  }

  /** @param hostKeys types of host keys, in the server's order of preference */
  static async start(hostKeys: readonly string[] = ['ed25519', 'ecdsa', 'rsa']): Promise<Sshd> {
    const directory = await mkdtemp(join(tmpdir(), 'hpcs-sshd-'));
    await chmod(directory, 0o755);
    for (const type of hostKeys) makeKey(join(directory, `host_${type}`), type);
    for (const type of ['ed25519', 'ecdsa', 'rsa']) makeKey(join(directory, type), type);
    makeKey(join(directory, 'protected'), 'ed25519', 'correct horse');
    makeKey(join(directory, 'stranger'), 'ed25519');
    const allowed = ['ed25519', 'ecdsa', 'rsa', 'protected'].map((name) => readFile(join(directory, `${name}.pub`), 'utf8'));
    await writeFile(join(directory, 'authorized_keys'), (await Promise.all(allowed)).join(''));
    await makeAccounts(directory);
    await mkdir(join(directory, 'small'));
    await mkdir('/run/sshd', { recursive: true });
    const port = await freePort();
    const options = [
      `ListenAddress 127.0.0.1:${port}`,
      ...hostKeys.map((type) => `HostKey ${join(directory, `host_${type}`)}`),
      `AuthorizedKeysFile ${join(directory, 'authorized_keys')}`,
      'UsePAM no',
      'StrictModes no',
      'PasswordAuthentication no',
      'KbdInteractiveAuthentication no',
      'PidFile none',
      'PrintMotd no',
      'MaxStartups 100',
    ];
    const sshd = new Sshd(directory, port, options);
    await sshd.#start();
    return sshd;
  }

  /** Starts it again with further lines of sshd_config. */
  async restart(options: readonly string[]): Promise<void> {
    await this.#stop();
    this.#options.push(...options);
    await this.#start();
  }

  /** What the server wrote to its log. */
  get log(): string {
    return this.#log.join('');
  }

  /** A file in the server's directory: keys `ed25519`, `ecdsa`, `rsa`, `protected`, `stranger`; `home/<account>`. */
  file(name: string): string {
    return join(this.directory, name);
  }

  /** A known_hosts line for this server. @param type of the host key */
  async knownHost(type = 'ed25519', host = `[127.0.0.1]:${this.port}`): Promise<string> {
    return `${host} ${await readFile(this.file(`host_${type}.pub`), 'utf8')}`;
  }

  /** Ends the connections, as a reset network would, but not the server. */
  dropConnections(): void {
    const [server = 0] = childrenOf(this.#child?.pid ?? 0);
    for (const session of childrenOf(server)) {
      // The monitor and the process that holds the socket; the account's commands live on.
      for (const pid of [...childrenOf(session, 'sshd'), session]) end(pid);
    }
  }

  /** Puts a script in the place of a program, for whoever comes over this server, until it is disposed of. */
  async replaceProgram(path: string, script: string): Promise<AsyncDisposable> {
    const [server = 0] = childrenOf(this.#child?.pid ?? 0);
    const inside = (...command: string[]): void => void execFileSync('nsenter', ['-t', String(server), '-m', '-p', ...command]);
    const file = this.file('program');
    await writeFile(file, script, { mode: 0o755 });
    inside('mount', '--bind', file, path);
    return { [Symbol.asyncDispose]: async () => inside('umount', path) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stop();
    await rm(this.directory, { recursive: true, force: true });
  }

  async #start(): Promise<void> {
    await writeFile(this.file('sshd_config'), `${this.#options.join('\n')}\n`);
    const script = `mount -t proc proc /proc && mount --bind "$0/passwd" /etc/passwd && mount -t tmpfs -o size=1m,mode=1777 tmpfs "$0/small" &&
      exec /usr/sbin/sshd -D -e -f "$0/sshd_config"`;
    const child = spawn('unshare', ['-m', '-p', '--fork', '--kill-child', 'sh', '-c', script, this.directory], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    child.stderr.on('data', (chunk: Buffer) => this.#log.push(chunk.toString('utf8')));
    this.#child = child;
    for (let tries = 0; tries < 200 && child.exitCode === null; tries++) {
      if (await answers(this.port)) return;
      await sleep(50);
    }
    throw new Error(`sshd did not start: ${this.log}`);
  }

  async #stop(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    // With the first process of its namespace all others end.
    child.kill('SIGKILL');
    await ended;
  }
}

/** Makes a key pair with ssh-keygen. */
export function makeKey(file: string, type: string, passphrase = ''): void {
  // Small, because a large one takes seconds and proves no more.
  const size = type === 'rsa' ? ['-b', '2048'] : [];
  execFileSync('ssh-keygen', ['-q', '-t', type, ...size, '-N', passphrase, '-C', '', '-f', file]);
}

async function makeAccounts(directory: string): Promise<void> {
  const lines = [await readFile('/etc/passwd', 'utf8')];
  for (const [name, shell] of Object.entries(accounts)) {
    const home = join(directory, 'home', name);
    await mkdir(home, { recursive: true });
    // What careless start-up files do: greet on both streams, also where nobody is at a terminal.
    const noise = 'echo Welcome; echo "no quota left" >&2\n';
    await writeFile(join(home, '.bashrc'), noise);
    await writeFile(join(home, '.cshrc'), 'echo Welcome\nset prompt="> "\n');
    await chown(home, uid, uid);
    lines.push(`${name}:*:${uid}:${uid}::${home}:${shell}\n`);
  }
  await writeFile(join(directory, 'passwd'), lines.join(''));
}

function end(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended with its sibling.
  }
}

function childrenOf(pid: number, program?: string): number[] {
  const listed = execFileSync('ps', ['-eo', 'pid=,ppid=,comm='], { encoding: 'utf8' });
  const rows = listed.trim().split('\n').map((line) => line.trim().split(/\s+/)); // prettier-ignore
  return rows.flatMap(([child, parent, name]) =>
    Number(parent) === pid && (program === undefined || name === program) ? [Number(child)] : [],
  );
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('data', () => (socket.destroy(), resolve(true)));
    socket.once('error', () => resolve(false));
  });
}

import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import { HpcsError, systemCode } from '../errors.ts';

/** The whole environment of a child: nothing of the login environment reaches one by accident. */
export const bareEnvironment: Readonly<Record<string, string>> = {
  PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin',
  LC_ALL: 'C.UTF-8',
};

/** How a program is started. */
export interface ProgramOptions {
  env?: Readonly<Record<string, string>>;
  /** Text for standard input; a password goes this way, never through argv. */
  input?: string | Uint8Array;
  stdio?: StdioOptions;
  cwd?: string;
  /** A process group of its own, so that it can be ended with all its children. */
  detached?: boolean;
}

/** How a program ended. */
export interface ProgramExit {
  /** Exit code; 128 + n for a signal n, as shells say it. */
  code: number;
  /** The last 8 KiB of standard error, where it was not sent elsewhere. */
  stderr: string;
}

const signalNumbers: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGABRT: 6,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGPIPE: 13,
  SIGTERM: 15,
};

/** A started program. */
export class Program {
  readonly child: ChildProcess;
  readonly #group: boolean;
  readonly ended: Promise<ProgramExit>;

  /** Starts `path` with exactly the environment given. @throws (from `ended`) HpcsError `site` when it cannot be started */
  constructor(path: string, args: readonly string[], options: ProgramOptions = {}) {
    const child = spawn(path, args, {
      env: { ...(options.env ?? bareEnvironment) },
      stdio: options.stdio ?? ['pipe', 'ignore', 'pipe'],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      detached: options.detached ?? false,
    });
    this.child = child;
    this.#group = options.detached ?? false;
    let stderr = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-8192);
    });
    // A program that ends without reading its input is judged by its exit code.
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input ?? '');
    this.ended = new Promise((resolve, reject) => {
      child.once('error', (error) => {
        reject(
          new HpcsError('site', 'program-missing', `cannot start ${path} on this node: ${systemCode(error) ?? error.message}`, {
            cause: error,
            suggestion: 'it must be installed on the compute nodes, in /usr/local/bin, /usr/bin or /bin',
          }),
        );
      });
      child.once('close', (code, signal) => resolve({ code: code ?? 128 + (signalNumbers[signal ?? ''] ?? 0), stderr }));
    });
    this.ended.catch(() => {});
  }

  /** Whether it has ended, by itself or by a signal. */
  get hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  /** Ends the program (its whole group, where it has one): asks, waits, then kills. */
  async stop(patience = 5000): Promise<void> {
    const { pid } = this.child;
    if (pid === undefined || this.hasEnded) return;
    this.#signal('SIGTERM');
    const late = setTimeout(() => this.#signal('SIGKILL'), patience);
    await this.ended.catch(() => {});
    clearTimeout(late);
  }

  #signal(name: NodeJS.Signals): void {
    const { pid } = this.child;
    if (pid === undefined) return;
    try {
      if (this.#group) process.kill(-pid, name);
      else this.child.kill(name);
    } catch {
      // It ended in between.
    }
  }
}

/** Runs a program to its end. @throws HpcsError `site` with its last words when it fails */
export async function runProgram(path: string, args: readonly string[], options: ProgramOptions = {}): Promise<void> {
  const exit = await new Program(path, args, options).ended;
  if (exit.code === 0) return;
  throw new HpcsError(
    'site',
    'program-failed',
    `${path.split('/').at(-1)} failed on this node (exit ${exit.code}): ${exit.stderr.trim() || 'no message'}`,
    { suggestion: 'its words may say what the node lacks; take another one with --nodelist, or ask the site' },
  );
}

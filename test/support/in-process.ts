import { Console } from 'node:console';
import { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { main } from '../../src/main.ts';
import { entry, type CliExit, type CliOptions } from './cli.ts';

/** Keeps what a command writes, up to the end of its process. */
class Kept extends Writable {
  readonly #parts: Buffer[] = [];
  readonly #told: (soFar: string) => void;
  #ended = false;

  constructor(told: (soFar: string) => void = () => {}) {
    super();
    this.#told = told;
  }

  get text(): string {
    return Buffer.concat(this.#parts).toString('utf8');
  }

  /** What is written from now on would have been written by nobody. */
  stop(): void {
    this.#ended = true;
  }

  override _write(bytes: Buffer, _: BufferEncoding, done: () => void): void {
    if (!this.#ended) this.#parts.push(bytes);
    done();
    if (!this.#ended) this.#told(this.text);
  }
}

/**
 * Runs `hpcs` in this process, which saves the time that a process takes to start: its own main function, with the words, streams,
 * variables, directory and signals of a process in place of this one's for as long as it runs. One at a time.
 *
 * What only a process shows (signals of the kernel, closed pipes, the exit code itself) is for `hpcs` in `cli.ts`.
 */
export async function hpcsInProcess(args: readonly string[], options: Omit<CliOptions, 'through'> = {}): Promise<CliExit> {
  let exited: number | undefined;
  const stdout = new Kept();
  const stderr = new Kept(options.onStderr);
  // A process would be gone here; this one goes on, and nothing that follows counts.
  const exit = (code?: number | string | null): undefined => {
    exited ??= Number(code ?? process.exitCode ?? 0);
    for (const stream of [stdout, stderr]) stream.stop();
  };
  using restore = new DisposableStack();
  const replace = <Target extends object>(target: Target, values: Partial<Record<keyof Target, unknown>>): void => {
    for (const [name, value] of Object.entries(values)) {
      const before = Object.getOwnPropertyDescriptor(target, name);
      restore.defer(() => before === undefined ? Reflect.deleteProperty(target, name) : Object.defineProperty(target, name, before)); // prettier-ignore
      Object.defineProperty(target, name, { value, configurable: true, enumerable: true, writable: true });
    }
  };
  const stdin = Readable.from([Buffer.from(options.input ?? '')], { objectMode: false });
  replace(process, {
    stdout,
    stderr,
    stdin,
    exit,
    argv: [process.execPath, fileURLToPath(entry), ...args],
    env: { ...process.env, ...options.env },
  });
  replace(globalThis, { console: new Console({ stdout, stderr }) });
  const directory = process.cwd();
  restore.defer(() => process.chdir(directory));
  if (options.cwd !== undefined) process.chdir(options.cwd);
  const before = process.exitCode;
  restore.defer(() => (process.exitCode = before));
  Object.assign(process, { exitCode: 0 });
  options.signal?.addEventListener('abort', () => process.emit('SIGTERM', 'SIGTERM'), { once: true });
  await main(entry.href, { source: true });
  return { code: exited ?? Number(process.exitCode), stdout: stdout.text, stderr: stderr.text };
}

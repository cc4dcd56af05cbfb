import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** The program as it runs from its sources. */
export const entry = new URL('../../bin/dev.js', import.meta.url);

/** How a run of the command line ended. */
export interface CliExit {
  code: number;
  stdout: string;
  stderr: string;
}

/** Options of {@link hpcs}. */
export interface CliOptions {
  env?: Record<string, string>;
  input?: string;
  cwd?: string;
  /** A program, with its arguments, that starts `hpcs` in its turn. */
  through?: readonly string[];
  /** Called with standard error as it grows. */
  onStderr?: (soFar: string) => void;
  signal?: AbortSignal;
}

/** Runs `hpcs` as a user would, in a process of its own, and tells how it ended. */
export function hpcs(args: readonly string[], options: CliOptions = {}): Promise<CliExit> {
  const [program = '', ...words] = [...(options.through ?? []), process.execPath, fileURLToPath(entry), ...args];
  const child = spawn(program, words, {
    env: { ...process.env, ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    options.onStderr?.(stderr);
  });
  options.signal?.addEventListener('abort', () => child.kill('SIGINT'), { once: true });
  child.stdin.end(options.input ?? '');
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code: code ?? (signal === null ? -1 : -2), stdout, stderr }));
  });
}

/** The same, but anything other than success fails the test with what was said. */
export async function hpcsOk(args: readonly string[], options: CliOptions = {}): Promise<CliExit> {
  const exit = await hpcs(args, options);
  if (exit.code !== 0) throw new Error(`hpcs ${args.join(' ')} ended ${exit.code}\n${exit.stderr}\n${exit.stdout}`);
  return exit;
}

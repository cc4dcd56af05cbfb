import { spawn } from 'node:child_process';

/** Runs shell text on a terminal of its own, and types when it asks. */
export async function onTerminal(
  command: string,
  asks: RegExp,
  typed: string,
  options: { env?: NodeJS.ProcessEnv } = {},
): Promise<{ screen: string; code: number | null }> {
  const child = spawn('script', ['-qec', command, '/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    timeout: 20_000,
    ...options,
  });
  let screen = '';
  let asked = false;
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    screen += text;
    if (asked || !asks.test(screen)) return;
    asked = true;
    child.stdin.write(typed);
  });
  const code = await new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve));
  return { screen, code };
}

import { setTimeout as sleep } from 'node:timers/promises';
import type { Container } from 'dockerode';

/** The last lines of what a container wrote. */
export async function logOf(container: Container): Promise<string> {
  return (await container.logs({ stdout: true, stderr: true, tail: 1000 })).toString();
}

/** The same, as soon as something like this is in it: the engine keeps it a moment later. @throws Error after five seconds */
export async function logged(container: Container, what: RegExp): Promise<string> {
  for (let attempt = 0; ; attempt += 1) {
    const log = await logOf(container);
    if (what.test(log)) return log;
    if (attempt === 50) throw new Error(`nothing like ${what} in the log, which ends ${log.slice(-2000)}`);
    await sleep(100);
  }
}

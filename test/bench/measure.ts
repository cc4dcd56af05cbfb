import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/** What one run of a contender cost. */
export interface Cost {
  /** Seconds from start to end. */
  seconds: number;
  /** Largest sum of the resident memory of its processes, in MiB; memory that they share counts once (PSS). */
  mib: number;
}

/** Runs a command to its end and measures it, with all processes that it starts. @throws Error with what it said, when it fails */
export async function measure(command: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Cost> {
  const [program = '', ...args] = command;
  const started = performance.now();
  const child = spawn(program, args, { detached: true, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  const said: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => said.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => said.push(chunk));
  let peak = 0;
  const sample = (): void => {
    peak = Math.max(peak, groupMemory(child.pid ?? 0));
  };
  const timer = setInterval(sample, 100);
  const code = await new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve));
  clearInterval(timer);
  const seconds = (performance.now() - started) / 1000;
  if (code !== 0)
    throw new Error(`${command.join(' ').slice(0, 200)} ended ${code}: ${Buffer.concat(said).toString().slice(-2000)}`);
  return { seconds, mib: peak / 1024 };
}

/** The middle one of several numbers. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

// In KiB. A process that ends meanwhile has nothing left to count.
function groupMemory(group: number): number {
  let sum = 0;
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1)?.split(' ') ?? [];
      if (Number(fields[2]) !== group) continue;
      sum += Number(/^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'))?.[1] ?? 0);
    } catch {
      continue;
    }
  }
  return sum;
}

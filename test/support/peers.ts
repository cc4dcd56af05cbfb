import { spawn } from 'node:child_process';
import { tarOf, type SmallTarEntry } from '../../src/pack/tar.ts';

const image = 'hpcs-test/peers';

/** GnuPG as the oldest of the sites have it. */
export const oldPeers = 'hpcs-test/old-peers';

const oldDockerfile = `FROM debian:bookworm-slim
RUN apt-get -qq update \\
 && apt-get -qq install -y --no-install-recommends gnupg zstd >/dev/null \\
 && rm -rf /var/lib/apt/lists/*
`;

/** Other programs that speak our formats, in their newest Debian versions. sid's Release file counts as expired. */
const dockerfile = `FROM debian:sid-slim
RUN apt-get -qq -o Acquire::Check-Valid-Until=false update \\
 && apt-get -qq install -y --no-install-recommends age gnupg sqop rsop zstd >/dev/null \\
 && rm -rf /var/lib/apt/lists/*
`;

/** How a program in the peers' container ended. */
export interface PeerExit {
  code: number | null;
  stdout: Buffer;
  stderr: string;
}

/** Builds both images, once a machine. */
export async function buildPeers(): Promise<void> {
  for (const [name, text] of [
    [image, dockerfile],
    [oldPeers, oldDockerfile],
  ] as const) {
    const { code, stderr, stdout } = await docker(['build', '-q', '-t', name, '-'], text);
    if (code !== 0) throw new Error(`cannot build ${name}: ${stderr}${stdout.toString()}`);
  }
}

/** Runs shell text in a directory that holds these files, in a container without network and with nothing left of it. */
export function inPeers(shell: string, files: readonly SmallTarEntry[] = [], peers = image): Promise<PeerExit> {
  const run = [
    'run',
    '--rm',
    '-i',
    '--network',
    'none',
    '--log-driver',
    'none',
    '--tmpfs',
    '/work:size=256m',
    '-w',
    '/work',
    peers,
  ];
  return docker([...run, 'sh', '-c', `tar -x && { ${shell}; }`], tarOf(files));
}

function docker(args: readonly string[], input: string | Uint8Array): Promise<PeerExit> {
  const child = spawn('docker', args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const stdout: Buffer[] = [];
  let stderr = '';
  child.stdout.on('data', (part: Buffer) => stdout.push(part));
  child.stderr.setEncoding('utf8').on('data', (part: string) => (stderr += part));
  // A program that ends before it has read all says so by its exit code.
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, stdout: Buffer.concat(stdout), stderr }));
  });
}

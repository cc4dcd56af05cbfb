import { execFile, spawn } from 'node:child_process';
import { constants, createWriteStream } from 'node:fs';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
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

/** Without network, and with nothing left of it. */
const run = ['run', '--rm', '-i', '--network', 'none', '--log-driver', 'none', '--tmpfs', '/scratch:size=256m', '-w', '/scratch'];

/** Runs shell text in a directory that holds these files, in a container without network and with nothing left of it. */
export function inPeers(shell: string, files: readonly SmallTarEntry[] = [], peers = image): Promise<PeerExit> {
  return docker([...run, peers, 'sh', '-c', `tar -x && { ${shell}; }`], tarOf(files));
}

/** Runs shell text with a long input, as {@link inPeers} does; through a named pipe, since the engine's own way moves 80 MB/s. */
export async function streamToPeers(shell: string, input: AsyncIterable<Uint8Array>, peers = image): Promise<PeerExit> {
  const directory = await mkdtemp(join(tmpdir(), 'hpcs-peers-'));
  try {
    const pipe = join(directory, 'input');
    await promisify(execFile)('mkfifo', [pipe]);
    const ended = new AbortController();
    const program = async (): Promise<PeerExit> => {
      try {
        const shellWithInput = `exec </input/input; ${shell}`;
        return await docker([...run, '-v', `${directory}:/input:ro`, peers, 'sh', '-c', shellWithInput], '');
      } finally {
        // Lets go of a writer that still waits for a reader.
        await (await open(pipe, constants.O_RDONLY | constants.O_NONBLOCK)).close();
        ended.abort();
      }
    };
    const [exit] = await Promise.all([
      program(),
      // A program that ends before it has read all says so by its exit code.
      pipeline(input, createWriteStream(pipe), { signal: ended.signal }).catch(() => undefined),
    ]);
    return exit;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
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

import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { HpcsError, systemCode } from '../errors.ts';
import { resultDirectory } from '../job/script.ts';
import type { Inside, JobPlan } from '../job/plan.ts';
import { fetchKeys } from './keys.ts';
import { bareEnvironment, Program } from './program.ts';

/** What the two halves share. */
export interface NodeContext {
  signal: AbortSignal;
  progress: (line: string) => void;
}

/**
 * The half outside the private namespace: identity and keys. It must be outside, since an agent in a user namespace would see every
 * process as uid 0. It hands the keys over through a pipe, relays signals, and removes the job's private directory at the end.
 *
 * @returns the job's exit code
 */
export async function outside(plan: JobPlan, context: NodeContext): Promise<number> {
  const { signal, progress } = context;
  const directory = required('HPCS_PRIVATE');
  const jobId = required('SLURM_JOB_ID');
  const node = required('SLURMD_NODENAME');
  const restart = Number(process.env['SLURM_RESTART_COUNT'] ?? 0);
  const results = resultDirectory(plan.workdir, plan.name, jobId, restart);
  try {
    progress(`job ${jobId} on ${node}`);
    // It asked not to be, and could not be told from somebody else who runs it once more.
    if (restart !== 0) throw requeued(jobId, restart);
    await makeResultDirectory(results);
    await checkArtefacts(plan);
    const keys = await fetchKeys(plan, {
      jobId,
      node,
      agentProgram: join(directory, 'bin/spire-agent'),
      directory,
      signal,
      progress,
    });
    const handed: Inside = {
      plan,
      jobId,
      restart,
      resultDirectory: results,
      privateDirectory: directory,
      image: { key: keys.image.key.reveal(), artefact: keys.image.artefact, config: keys.image.image },
      data: { key: keys.data.key.reveal(), artefact: keys.data.artefact },
      authenticationKey: keys.authenticationKey.reveal(),
      scriptsKey: keys.scriptsKey?.reveal() ?? null,
    };
    return await runInside(directory, JSON.stringify(handed), signal);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

// The user stays who it is; the capabilities to mount are kept over exec and reach no further than the namespace. When the first
// process of the process namespace ends, however it ends, the kernel ends the others, and with the last one the mounts are gone.
const namespaces = [
  '--user',
  '--map-current-user',
  '--keep-caps',
  '--mount',
  '--propagation',
  'private',
  '--pid',
  '--fork',
  '--kill-child',
  '--mount-proc',
];

/** Runs the inner half in user, mount and process namespaces of this job's own, which no other user can look into. */
async function runInside(directory: string, handed: string, signal: AbortSignal): Promise<number> {
  signal.throwIfAborted();
  const program = new Program(
    'unshare',
    [...namespaces, '--', join(directory, 'bin/node'), join(directory, 'hpcs-node.mjs'), 'inside'],
    {
      stdio: ['ignore', 'inherit', 'inherit', 'pipe', 'pipe'],
      env: bareEnvironment,
    },
  );
  const keys = writableOf(program, 3);
  const control = writableOf(program, 4);
  keys.end(handed);
  // unshare ignores signals while it waits: the inner half learns by a pipe that it is to end. It seals what there is first.
  const relay = (): void => void control.end('end');
  signal.addEventListener('abort', relay, { once: true });
  try {
    return (await program.ended).code;
  } finally {
    signal.removeEventListener('abort', relay);
    control.destroy();
  }
}

function writableOf(program: Program, fd: number): Writable {
  const pipe = program.child.stdio[fd];
  if (!(pipe instanceof Writable)) throw new HpcsError('bug', 'bug', `no pipe ${fd} to the inner half`);
  // Whatever is wrong with the inner half shows in how it ends.
  pipe.on('error', () => {});
  return pipe;
}

function requeued(jobId: string, restart: number): HpcsError {
  return new HpcsError('job', 'job-requeued', `job ${jobId} was started again by the scheduler (restart ${restart})`, {
    suggestion: 'jobs run once: submit it again',
  });
}

async function makeResultDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    const exists = systemCode(error) === 'EEXIST';
    throw new HpcsError(
      'site',
      exists ? 'results-exist' : 'workdir-unwritable',
      `cannot make the result directory ${path}: ${systemCode(error)}`,
      {
        cause: error,
        suggestion: exists
          ? 'earlier results are never overwritten: submit with another --job-name'
          : 'check --workdir: it must exist and be writable on the compute node',
      },
    );
  }
}

async function checkArtefacts(plan: JobPlan): Promise<void> {
  for (const [kind, artefact] of [
    ['image', plan.image],
    ['data', plan.data],
  ] as const) {
    // prettier-ignore
    const found = await stat(artefact.path).catch((error: unknown) => {
      throw new HpcsError('site', 'artefact-missing', `the ${kind} ${artefact.path} cannot be read on this node: ${systemCode(error)}`, {
        cause: error,
        suggestion: 'it must lie on storage that the compute nodes share',
      });
    });
    if (artefact.size !== undefined && found.size !== artefact.size) {
      throw new HpcsError(
        'integrity',
        'artefact-altered',
        `the ${kind} ${artefact.path} has ${found.size} bytes, not the ${artefact.size} of its record`,
        { suggestion: 'prepare it again, and tell the site' },
      );
    }
  }
}

function required(name: string): string {
  const value = process.env[name];
  if (value) return value;
  throw new HpcsError('usage', 'not-in-a-job', `${name} is not set: hpcs-node runs in a job script of hpcs-client`);
}

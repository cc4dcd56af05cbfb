import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
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
    await makeResultDirectory(results);
    await checkArtefacts(plan);
    const keys = await fetchKeys(plan, { node, agentProgram: join(directory, 'bin/spire-agent'), directory, signal, progress });
    const handed: Inside = {
      plan,
      jobId,
      restart,
      resultDirectory: results,
      privateDirectory: directory,
      uid: process.getuid?.() ?? 0,
      gid: process.getgid?.() ?? 0,
      image: { key: keys.image.key, artefact: keys.image.artefact, config: keys.image.image },
      data: { key: keys.data.key, artefact: keys.data.artefact },
      authenticationKey: keys.authenticationKey.reveal(),
    };
    return await runInside(directory, JSON.stringify(handed), signal);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

// The user stays who it is; the capabilities to mount are kept over exec and reach no further than the namespace.
const namespace = ['--user', '--map-current-user', '--keep-caps', '--mount', '--propagation', 'private'];

/** A user namespace and a mount namespace of this job's own: its mounts are seen by no other user and end with its last process. */
async function runInside(directory: string, handed: string, signal: AbortSignal): Promise<number> {
  signal.throwIfAborted();
  const program = new Program(
    'unshare',
    [...namespace, '--', join(directory, 'bin/node'), join(directory, 'hpcs-node.mjs'), 'inside'],
    { stdio: ['ignore', 'inherit', 'inherit', 'pipe'], env: bareEnvironment },
  );
  const pipe = program.child.stdio[3];
  if (pipe === null || pipe === undefined || !('end' in pipe)) throw new HpcsError('bug', 'bug', 'no pipe to the inner half');
  pipe.on('error', () => {});
  pipe.end(handed);
  // The inner half seals what there is when it is asked to end; this one waits for it.
  const relay = (): void => void program.child.kill('SIGTERM');
  signal.addEventListener('abort', relay, { once: true });
  try {
    return (await program.ended).code;
  } finally {
    signal.removeEventListener('abort', relay);
  }
}

async function makeResultDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    const exists = systemCode(error) === 'EEXIST';
    throw new HpcsError('site', exists ? 'results-exist' : 'workdir-unwritable', `cannot make the result directory ${path}: ${systemCode(error)}`, {
      cause: error,
      suggestion: exists ? 'earlier results are never overwritten: submit with another --job-name' : 'check --workdir: it must exist and be writable on the compute node',
    });
  }
}

async function checkArtefacts(plan: JobPlan): Promise<void> {
  for (const [kind, artefact] of [['image', plan.image], ['data', plan.data]] as const) { // prettier-ignore
    const found = await stat(artefact.path).catch((error: unknown) => {
      throw new HpcsError('site', 'artefact-missing', `the ${kind} ${artefact.path} cannot be read on this node: ${systemCode(error)}`, {
        cause: error,
        suggestion: 'it must lie on storage that the compute nodes share',
      });
    });
    if (artefact.size !== undefined && found.size !== artefact.size) {
      throw new HpcsError('integrity', 'artefact-altered', `the ${kind} ${artefact.path} has ${found.size} bytes, not the ${artefact.size} of its record`);
    }
  }
}

function required(name: string): string {
  const value = process.env[name];
  if (value) return value;
  throw new HpcsError('usage', 'not-in-a-job', `${name} is not set: hpcs-node runs in a job script of hpcs-client`);
}

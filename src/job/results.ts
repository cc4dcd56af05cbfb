import { mkdir, rename, rm } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { HpcsError, systemCode } from '../errors.ts';
import { unpack } from '../pack/unpack.ts';
import { digesting } from '../seal/digest.ts';
import { open } from '../seal/open.ts';
import { Secret } from '../secret.ts';
import { readFile, readStream, stat } from '../site/files.ts';
import type { Transport } from '../site/transport.ts';
import { parseManifest, resultFiles, type ResultManifest } from './manifest.ts';
import { resultDirectory } from './script.ts';
import type { JobRecord } from './store.ts';

/**
 * Fetches, checks and opens the results of a job.
 *
 * The manifest is authenticated before anything in it is believed, the sealed file is held against it, and the target appears only
 * when all was well.
 *
 * @param target directory that is made; must not exist
 * @throws HpcsError `integrity` for forged or altered results, `job` where there are none yet
 */
export async function openResults(transport: Transport, job: JobRecord & { jobId: string }, target: string, options: { signal: AbortSignal }): Promise<ResultManifest> {
  const { signal } = options;
  const directory = resultDirectory(job.workdir, job.name, job.jobId, 0);
  const manifestPath = `${directory}/${resultFiles.manifest}`;
  if ((await stat(transport, manifestPath, { signal })) === undefined) throw await nothingYet(transport, directory, job.jobId, signal);
  using authenticationKey = new Secret(job.authenticationKey);
  const manifest = parseManifest(Buffer.from(await readFile(transport, manifestPath, { maxBytes: 1024 * 1024, signal })).toString('utf8'), authenticationKey);
  checkManifest(manifest, job);

  using key = new Secret(job.resultKey);
  const temporary = join(dirname(target), `.${basename(target)}.${randomBytes(6).toString('hex')}.part`);
  await makeTarget(target, temporary);
  try {
    const fetched = digesting(readStream(transport, `${directory}/${resultFiles.sealed}`, { signal }));
    await unpack(open(fetched.bytes, key, { signal }), temporary, { signal });
    const { sha512, size } = await fetched.summary;
    if (sha512 !== manifest.result.sha512 || size !== manifest.result.size) {
      throw new HpcsError('integrity', 'results-altered', `the results of job ${job.jobId} are not the ones its manifest names`, {
        suggestion: 'do not use them; tell the site, and submit the job again',
      });
    }
    // The archive holds one directory, `output`: that becomes the target.
    await rename(join(temporary, 'output'), target);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return manifest;
}

function checkManifest(manifest: ResultManifest, job: JobRecord & { jobId: string }): void {
  const same = manifest.job.id === job.jobId && manifest.image.sha512 === job.image.sha512 && manifest.data.sha512 === job.data.sha512;
  if (same) return;
  throw new HpcsError('integrity', 'manifest-of-another-job', `the result manifest is that of job ${manifest.job.id} or of other artefacts, not of job ${job.jobId}`, {
    suggestion: 'do not use these results; tell the site',
  });
}

async function nothingYet(transport: Transport, directory: string, jobId: string, signal: AbortSignal): Promise<HpcsError> {
  const partial = await stat(transport, `${directory}/${resultFiles.outputVolumeKey}`, { signal });
  return new HpcsError('job', 'no-results', `job ${jobId} has left no results in ${directory}`, {
    suggestion: partial === undefined ? 'it is still running, was withheld, or failed: see its log' : `it is still running or was killed; what it wrote so far: hpcs job results ${jobId} --partial`,
  });
}

async function makeTarget(target: string, temporary: string): Promise<void> {
  try {
    await mkdir(dirname(target), { recursive: true });
    await mkdir(target, { mode: 0o700 });
    await mkdir(temporary, { mode: 0o700 });
    await rm(target, { recursive: true });
  } catch (error) {
    const exists = systemCode(error) === 'EEXIST';
    throw new HpcsError('local', exists ? 'target-exists' : 'write-failed', `cannot make ${target}: ${systemCode(error)}`, {
      cause: error,
      suggestion: 'name a new directory with --output; nothing is ever overwritten',
    });
  }
}

import { HpcsError } from '../errors.ts';
import { unpack } from '../pack/unpack.ts';
import { digesting } from '../seal/digest.ts';
import { open } from '../seal/open.ts';
import { readFile, readStream } from '../site/files.ts';
import type { Transport } from '../site/transport.ts';
import { findResults, type FoundResults } from './found.ts';
import { parseManifest, resultFiles, type ResultManifest } from './manifest.ts';
import type { SubmittedRecord } from './store.ts';
import { TargetDirectory } from './target.ts';

/**
 * Fetches, checks and opens the results of a job.
 *
 * The manifest is authenticated before anything in it is believed, the sealed file is held against it, and the target appears only
 * when all was well.
 *
 * @param target directory that is made; must not exist
 * @throws HpcsError `integrity` for forged or altered results, `job` where there are none yet
 */
export async function openResults(
  transport: Transport,
  job: SubmittedRecord,
  target: string,
  options: { signal: AbortSignal },
): Promise<ResultManifest> {
  const { signal } = options;
  const found = await findResults(transport, job, { signal });
  if (found.content !== 'whole') throw nothingYet(job.jobId, found);
  const manifestPath = `${found.directory}/${resultFiles.manifest}`;
  const manifest = parseManifest(
    Buffer.from(await readFile(transport, manifestPath, { maxBytes: 1024 * 1024, signal })).toString('utf8'),
    job.authenticationKey,
  );
  checkManifest(manifest, job, found.restart);

  await using destination = await TargetDirectory.make(target);
  const altered = (): HpcsError =>
    new HpcsError('integrity', 'results-altered', `the results of job ${job.jobId} are not the ones its manifest names`, {
      suggestion: 'do not use them; tell the site, and submit the job again',
    });
  const sealed = readStream(transport, `${found.directory}/${resultFiles.sealed}`, { signal });
  const fetched = digesting(noMoreThan(manifest.result.size, sealed, altered));
  const opened = open(fetched.bytes, job.resultKey, { signal, checkedAtEnd: true });
  await unpack(noMoreThan(manifest.result.plain ?? Infinity, opened, altered), destination.temporary, { signal });
  const { sha512, size } = await fetched.summary;
  if (sha512 !== manifest.result.sha512 || size !== manifest.result.size) throw altered();
  // The archive holds one directory, `output`: that becomes the target.
  await destination.publish('output');
  return manifest;
}

/** Anybody can seal for the job's owner: a site that sends without end, or what expands without end, is not listened to until the disk is full. */
async function* noMoreThan(
  most: number,
  stream: AsyncIterable<Uint8Array>,
  tooMuch: () => HpcsError,
): AsyncGenerator<Uint8Array, void, undefined> {
  let size = 0;
  for await (const piece of stream) {
    size += piece.length;
    if (size > most) throw tooMuch();
    yield piece;
  }
}

function checkManifest(manifest: ResultManifest, job: SubmittedRecord, restart: number): void {
  const same =
    manifest.job.id === job.jobId &&
    manifest.job.name === job.name &&
    manifest.job.restart === restart &&
    manifest.image.sha512 === job.image.sha512 &&
    manifest.data.sha512 === job.data.sha512;
  if (same) return;
  throw new HpcsError(
    'integrity',
    'manifest-of-another-job',
    `the result manifest is that of job ${manifest.job.id} or of other artefacts, not of job ${job.jobId}`,
    {
      suggestion: 'do not use these results; tell the site',
    },
  );
}

function nothingYet(jobId: string, found: FoundResults): HpcsError {
  return new HpcsError('job', 'no-results', `job ${jobId} has left no results in ${found.directory}`, {
    suggestion:
      found.content === 'none'
        ? `it waits or runs, was withheld, or failed: hpcs job status ${jobId} and hpcs job logs ${jobId} tell`
        : `it is still running or was killed; what it wrote so far: hpcs job results ${jobId} --partial`,
  });
}

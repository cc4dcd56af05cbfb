import { Args, Flags } from '@oclif/core';
import { resolve } from 'node:path';
import { BaseCommand, configFlag } from '../../src/base-command.ts';
import { HpcsError } from '../../src/errors.ts';
import { endIfOver } from '../../src/job/end.ts';
import { knownJob, type KnownJob } from '../../src/job/known.ts';
import type { ResultManifest } from '../../src/job/manifest.ts';
import { openPartialResults, type PartialResults } from '../../src/job/partial.ts';
import { openResults } from '../../src/job/results.ts';
import { connect } from '../../src/site/connect.ts';
import type { Transport } from '../../src/site/transport.ts';

/** Fetches, checks and decrypts what a job produced. */
export default class JobResults extends BaseCommand {
  static override summary = 'fetch, check and decrypt what a job produced';
  static override description = `The manifest must have been made by the job itself, and the sealed file must be the one it names; then the results are decrypted into a new \
directory. The key lies in the state directory (HPCS_STATE_DIR) of the machine which submitted the job.

A job that was killed, or lost its node, could not seal its results. --partial decrypts what it had written. Each byte of that was \
written by the job, but no manifest covers the whole: the site could have removed, exchanged, blanked or rolled back parts of it.`;
  static override examples = [
    '<%= config.bin %> job results 4711 --output ./results',
    '<%= config.bin %> job results 4711 --partial',
  ];
  static override args = {
    job: Args.string({ description: 'job id, as job-prep reported it', required: true, ignoreStdin: true }),
  };
  static override flags = {
    config: configFlag,
    output: Flags.string({
      char: 'o',
      summary: 'directory to make (default: results-JOB, or partial-results-JOB)',
      helpValue: 'DIR',
    }),
    partial: Flags.boolean({ summary: 'decrypt what a killed job had written so far', default: false }),
  };

  async run(): Promise<{ directory: string; manifest: ResultManifest } | PartialResults> {
    const { args, flags } = await this.parse(JobResults);
    const { config, job } = await knownJob(flags.config, args.job);
    await using transport = await connect(config, { signal: this.signal, username: job.username });
    await endIfOver(job, { config, transport, signal: this.signal, warn: this.warning });
    const directory = resolve(flags.output ?? `${flags.partial ? 'partial-' : ''}results-${args.job}`);
    if (flags.partial) return await this.#partial(transport, job, directory);
    this.progress(`fetching the results of job ${args.job}`);
    const manifest = await openResults(transport, job, directory, { signal: this.signal });
    if (manifest.partial !== null) this.warning(`the results are partial: ${manifest.partial}`);
    this.log(`results: ${directory}\napplication's exit code: ${manifest.exitCode ?? 'none, it did not end by itself'}`);
    return { directory, manifest };
  }

  async #partial(transport: Transport, job: KnownJob['job'], directory: string): Promise<PartialResults> {
    this.progress(`fetching what job ${job.jobId} had written`);
    const results = await openPartialResults(transport, job, directory, { signal: this.signal });
    this.warning(
      'these results are partial, and no manifest covers them: the site could have removed, exchanged, blanked or rolled back parts',
    );
    for (const line of results.unread) this.warning(`the site could not read all as it was: ${line}`);
    for (const path of results.damaged) this.warning(`cut where the job stopped writing: ${JSON.stringify(path)}`);
    for (const path of results.altered) this.warning(`damaged or altered, and cut or left out: ${JSON.stringify(path)}`);
    this.log(`partial results: ${directory}\nfiles: ${results.files}, of which ${results.damaged.length} are cut`);
    if (results.altered.length > 0) {
      throw new HpcsError(
        'integrity',
        'results-altered',
        `${results.altered.length} of the files that job ${job.jobId} had written are damaged or were altered, such as ${JSON.stringify(results.altered[0])}`,
        {
          result: results,
          suggestion: `the others are in ${directory}; a node that was lost explains it, and so does a site that alters files`,
        },
      );
    }
    return results;
  }
}

import { Args, Flags } from '@oclif/core';
import { resolve } from 'node:path';
import { BaseCommand, configFlag } from '../../src/base-command.ts';
import { loadConfig } from '../../src/config.ts';
import type { ResultManifest } from '../../src/job/manifest.ts';
import { openResults } from '../../src/job/results.ts';
import { JobStore } from '../../src/job/store.ts';
import { connect } from '../../src/site/connect.ts';
import { stateDirectory } from '../../src/state.ts';

/** Fetches, checks and decrypts what a job produced. */
export default class JobResults extends BaseCommand {
  static override summary = 'fetch, check and decrypt what a job produced';
  static override description = `The manifest must have been made by the job itself, and the sealed file must be the one it names; then the results are decrypted into a new
directory. The key lies in the state directory (HPCS_STATE_DIR) of the machine which submitted the job.`;
  static override examples = ['<%= config.bin %> job results 4711 --output ./results'];
  static override args = {
    job: Args.string({ description: 'job id, as job-prep reported it', required: true, ignoreStdin: true }),
  };
  static override flags = {
    config: configFlag,
    output: Flags.string({ char: 'o', summary: 'directory to make (default: results-JOB)', helpValue: 'DIR' }),
  };

  async run(): Promise<{ directory: string; manifest: ResultManifest }> {
    const { args, flags } = await this.parse(JobResults);
    const config = await loadConfig(flags.config);
    const job = await new JobStore(await stateDirectory(config)).find(args.job, config.supercomputer.address);
    await using transport = await connect(config, { signal: this.signal });
    const directory = resolve(flags.output ?? `results-${args.job}`);
    this.progress(`fetching the results of job ${args.job}`);
    const manifest = await openResults(transport, { ...job, jobId: args.job }, directory, { signal: this.signal });
    if (manifest.partial !== null) this.warning(`the results are partial: ${manifest.partial}`);
    this.log(`results: ${directory}\napplication's exit code: ${manifest.exitCode ?? 'none, it did not end by itself'}`);
    return { directory, manifest };
  }
}

import { Flags } from '@oclif/core';
import { BaseCommand, configFlag, recipientFlag } from '../src/base-command.ts';
import { loadConfig, withMode } from '../src/config.ts';
import { firstError, HpcsError } from '../src/errors.ts';
import { followAttended, isAwaited } from '../src/job/attend.ts';
import { endJob } from '../src/job/end.ts';
import { followJob, goesOn, jobFailed } from '../src/job/follow.ts';
import { checkJob, submitJob } from '../src/job/prepare.ts';
import { JobStore } from '../src/job/store.ts';
import { splitWords } from '../src/job/words.ts';
import { unwrapQuotes } from '../src/legacy-arguments.ts';
import { printableWriter } from '../src/report.ts';
import { sealFormats, type SealFormat } from '../src/seal/format.ts';
import { connect } from '../src/site/connect.ts';
import { parseTimeLimit } from '../src/site/slurm.ts';
import { stateDirectory } from '../src/state.ts';

const quoted = Flags.custom({ parse: async (value) => unwrapQuotes(value) });

/** Submits a job that runs a sealed image on a sealed dataset. */
export default class JobPrep extends BaseCommand {
  static override summary = 'submit a job that runs a sealed image on a sealed dataset';
  static override description = `Both info records are checked, the script is rendered and handed to sbatch, and the job is followed to its end: its log with --follow, else its \
changes of state. The exit code is the application's. Results are opened with: hpcs job results JOB`;
  static override examples = [
    `<%= config.bin %> job-prep -N 1 -p standard -t 00:10:00 -A project_1 -s /scratch/project_1/alice -ai /scratch/…/image.sif.info.yaml -di /scratch/…/data.tgz.info.yaml -f -- --width=100 /sd-container/encrypted/input/image.png`,
  ];
  static override flags = {
    config: configFlag,
    'job-name': quoted({ char: 'J', summary: 'name of the job', helpValue: 'NAME', default: 'hpcs' }),
    nodes: quoted({ char: 'N', summary: 'number of nodes (the first one runs the application)', helpValue: 'N', required: true }),
    partition: quoted({ char: 'p', summary: 'partition', helpValue: 'NAME', required: true }),
    time: quoted({ char: 't', summary: 'time limit', helpValue: 'HH:MM:SS', required: true }),
    account: quoted({ char: 'A', summary: 'account to bill', helpValue: 'NAME', required: true }),
    nodelist: quoted({
      char: 'w',
      summary: 'nodes to run on (default: one that both artefacts are granted to)',
      helpValue: 'A,B',
    }),
    workdir: quoted({ char: 's', summary: 'directory on the site for log and results', helpValue: 'DIR', required: true }),
    'application-info': quoted({
      summary: 'info record of the image on the site (also -ai)',
      helpValue: 'PATH[#sha512:…]',
      required: true,
    }),
    'data-info': quoted({
      summary: 'info record of the data on the site (also -di)',
      helpValue: 'PATH[#sha512:…]',
      required: true,
    }),
    'supplementary-input-scripts': quoted({
      char: 'i',
      summary: 'directory on the site (or local:DIR on this machine) with scripts to run before the application',
      helpValue: 'DIR',
    }),
    'supplementary-output-scripts': quoted({
      char: 'o',
      summary: 'directory on the site (or local:DIR on this machine) with scripts to run after the application',
      helpValue: 'DIR',
    }),
    'singularity-supplementary-flags': quoted({
      summary: 'more flags for Apptainer (also -flags)',
      helpValue: 'STRING',
      default: '',
    }),
    arguments: quoted({
      summary: 'arguments of the application, as one string (also -args); or give them behind --',
      helpValue: 'STRING',
    }),
    mem: quoted({ summary: "memory per node (default: the partition's)", helpValue: 'SIZE' }),
    exclusive: Flags.boolean({ summary: 'ask for nodes that no other job shares', default: false }),
    recipient: recipientFlag,
    format: Flags.option({ options: sealFormats, summary: 'format of the sealed results', default: 'openpgp' as SealFormat })(),
    'allow-legacy-image': Flags.boolean({
      summary: 'run an image or data that the original HPCS prepared, whose bytes the vault cannot vouch for',
      default: false,
    }),
    connected: Flags.boolean({
      summary: 'bring the job its keys over SSH: for nodes that reach no service (mode = connected in the configuration)',
      default: false,
    }),
    follow: Flags.boolean({ char: 'f', summary: "show the job's log until it ends", default: false }),
  };

  async run(): Promise<{ jobId: string; state: string; exitCode: number; ran: boolean }> {
    // oclif would move words behind `--` that look like flags.
    const words = this.argv;
    const dashes = words.includes('--') ? words.indexOf('--') : words.length;
    const { flags } = await this.parse(JobPrep, words.slice(0, dashes));
    const config = withMode(await loadConfig(flags.config), flags.connected ? 'connected' : undefined);
    const args = [...splitWords(flags.arguments ?? '', 'value of --arguments'), ...words.slice(dashes + 1)];
    const recipients = await this.recipients(config, flags);
    const request = {
      slurm: {
        jobName: flags['job-name'],
        nodes: Number(flags.nodes),
        partition: flags.partition,
        time: parseTimeLimit(flags.time),
        account: flags.account,
        nodelist: flags.nodelist,
        workdir: flags.workdir,
        exclusive: flags.exclusive,
        memory: flags.mem,
      },
      applicationInfo: flags['application-info'],
      dataInfo: flags['data-info'],
      inputScripts: flags['supplementary-input-scripts'],
      outputScripts: flags['supplementary-output-scripts'],
      flags: splitWords(flags['singularity-supplementary-flags'], 'value of --singularity-supplementary-flags'),
      arguments: args,
      format: flags.format,
      recipients,
      allowLegacy: flags['allow-legacy-image'],
    };
    checkJob(request);
    await using transport = await connect(config, { signal: this.signal });
    const context = { config, transport, signal: this.signal, progress: this.progress, warn: this.warning, meter: this.meter };
    const { jobId, record } = await submitJob(request, context);
    // With --json standard output is silent until the end, and whoever waits for that may want to name the job.
    if (this.jsonEnabled()) this.progress(`submitted job ${jobId}`);
    else this.log(`submitted job ${jobId}`);
    const store = new JobStore(await stateDirectory(config));
    const end = await followAttended(record, { ...context, store }, (signal) =>
      followJob(
        transport,
        { jobId, name: record.name, workdir: record.workdir },
        {
          ...(flags.follow ? { log: printableWriter((text) => process.stderr.write(text)) } : {}),
          progress: this.progress,
          signal,
        },
      ),
    ).catch(async (error: unknown) => {
      if (this.signal.aborted) throw goesOn(jobId, { awaited: isAwaited(await store.latest(record)) });
      const lost = firstError(error);
      if (lost instanceof HpcsError) lost.result ??= { jobId };
      throw error;
    });
    await endJob(record, { ...context, ran: end.ran });
    if (end.exitCode !== 0) throw jobFailed(jobId, end);
    this.log(`job ${jobId} ended ${end.state}\nopen its results with: hpcs job results ${jobId}`);
    return { jobId, ...end };
  }
}

import { Flags } from '@oclif/core';
import { basename, resolve } from 'node:path';
import {
  bandwidthFlag,
  BaseCommand,
  conditionFlags,
  configFlag,
  dataPathFlag,
  formatFlag,
  publishFlags,
  recipientFlag,
} from '../src/base-command.ts';
import { checkInput, scan } from '../src/pack/pack.ts';
import type { Published } from '../src/publish.ts';
import { compressionOf, dataCompressions } from '../src/seal/format.ts';
import { startEarly } from '../src/seal/threads.ts';

/** Seals a dataset, ships it to the site and grants its key. */
export default class DataPrep extends BaseCommand {
  static override summary = 'seal a dataset, ship it to the site and grant its key';
  static override description = `The directory or file is packed, compressed, encrypted and uploaded in one pass; its key goes to the vault and nowhere else. \
Jobs of yours may use it, and those of the clients (-u) and groups of clients (-g) you name. In agent mode readers are UNIX users (-u) or \
groups (-g) on compute nodes (-c), as in the original. The info record that job-prep takes is written last.`;
  static override examples = [
    '<%= config.bin %> data-prep -i ./jp2a_input -u alice -c nid000001 --data-path encrypted_jp2a_input.tgz --data-path-at-rest /scratch/project/alice',
  ];
  static override flags = {
    config: configFlag,
    'input-path': Flags.string({
      char: 'i',
      aliases: ['input-data'],
      summary: 'directory or file to seal',
      helpValue: 'PATH',
      required: true,
    }),
    'output-path': Flags.string({
      char: 'o',
      aliases: ['output-data'],
      summary: 'keep a copy of the sealed file in this directory, which replaces nothing',
      helpValue: 'DIR',
    }),
    'data-path': dataPathFlag,
    'data-path-at-rest': Flags.string({ summary: 'directory on the site', helpValue: 'DIR', required: true }),
    ...publishFlags,
    'bandwidth-limit': bandwidthFlag,
    recipient: recipientFlag,
    ...conditionFlags,
    format: formatFlag,
    compression: Flags.option({
      options: dataCompressions,
      summary: 'compression of what is packed; auto: zstd in format openpgp, none in the others',
      default: 'auto' as const,
    })(),
  };

  async run(): Promise<Published> {
    const { flags } = await this.parse(DataPrep);
    // Most of the program is loaded beside the threads, which take as long to come up.
    startEarly();
    const [{ conditionsOf }, { readersOf }, { loadConfig, withUsername }, { publish }] = await Promise.all([
      import('../src/access/conditions.ts'),
      import('../src/access/readers.ts'),
      import('../src/config.ts'),
      import('../src/publish.ts'),
    ]);
    const config = withUsername(await loadConfig(flags.config), flags.username);
    const conditions = await conditionsOf(flags, { config, signal: this.signal, warn: this.warning });
    const readers = { ...readersOf(flags), conditions };
    const recipients = await this.recipients(config, flags);
    const input = flags['input-path'];
    // Before anything is asked of others; the rest of the input is looked at while they answer.
    checkInput(input);
    const fileName = basename(flags['data-path'] ?? `encrypted_${basename(resolve(input))}.tgz`);
    const published = await publish(
      {
        kind: 'data',
        open: async (_site, signal) => {
          const counted = async (): Promise<number> => {
            const { entries, bytes, archive } = await scan(input, { signal });
            this.progress(`${input}: ${entries} entries, ${bytes} bytes`);
            return archive;
          };
          return { source: { path: input }, total: counted(), [Symbol.asyncDispose]: async () => {} };
        },
        fileName,
        directory: flags['data-path-at-rest'],
        format: flags.format,
        compress: compressionOf(flags.compression, flags.format),
        readers,
        recipients,
        bandwidth: flags['bandwidth-limit'],
        keep: flags['output-path'],
      },
      { config, signal: this.signal, progress: this.progress, warning: this.warning, meter: this.meter },
    );
    this.log(`data published: ${published.path} (${published.size} bytes)\ninfo record: ${published.info}`);
    if (published.copy !== undefined) this.log(`copy: ${published.copy}`);
    return published;
  }
}

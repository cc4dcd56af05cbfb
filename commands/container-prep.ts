import { Flags } from '@oclif/core';
import { basename, join } from 'node:path';
import { conditionsOf } from '../src/access/conditions.ts';
import { readersOf } from '../src/access/readers.ts';
import {
  bandwidthFlag,
  BaseCommand,
  configFlag,
  dataPathFlag,
  durationFlags,
  formatFlag,
  publishFlags,
  recipientFlag,
} from '../src/base-command.ts';
import { loadConfig, withUsername, type Config } from '../src/config.ts';
import { HpcsError } from '../src/errors.ts';
import { siteCompression } from '../src/image/compression.ts';
import { openImage, pullPolicies, sifCompressions, type SifCompression } from '../src/image/image.ts';
import type { Readers } from '../src/grant.ts';
import { keepOnly } from '../src/keep.ts';
import { publish, type Published } from '../src/publish.ts';
import type { SealFormat } from '../src/seal/format.ts';
import type { Recipient } from '../src/seal/recipients.ts';

/** Flags that a SIF which is only written has no use for. */
const notPlain = [
  'config',
  'data-path-at-rest',
  ...Object.keys(publishFlags),
  'bandwidth-limit',
  'recipient',
  ...Object.keys(durationFlags()),
  'format',
];

/** Turns an OCI image into a sealed Apptainer image on the site. */
export default class ContainerPrep extends BaseCommand {
  static override summary = 'seal an OCI image as an Apptainer image, ship it to the site and grant its key';
  static override description = `The files of the image are read from the Docker engine and made into a SIF, which is encrypted and uploaded while it is read. Without --encrypted the SIF is written in plain to --sif-path and nothing is shipped.`;
  static override examples = [
    '<%= config.bin %> container-prep -b talinx/jp2a -e -u alice -c nid000001 --data-path encrypted_jp2a.sif --data-path-at-rest /scratch/project/alice',
    '<%= config.bin %> container-prep -b talinx/jp2a -s .',
  ];
  static override flags = {
    config: configFlag,
    'base-oci-image': Flags.string({ char: 'b', summary: 'image to prepare', helpValue: 'IMAGE', required: true }),
    'sif-path': Flags.string({ char: 's', summary: 'directory for the plain SIF (required without -e)', helpValue: 'DIR' }),
    encrypted: Flags.boolean({ char: 'e', summary: 'seal the SIF, ship it and grant its key', default: false }),
    'data-path': dataPathFlag,
    'data-path-at-rest': Flags.string({ summary: 'directory on the site (required with -e)', helpValue: 'DIR' }),
    ...publishFlags,
    'docker-path': Flags.string({
      char: 'd',
      summary: 'socket of the Docker engine (default: DOCKER_HOST, else the usual one)',
      helpValue: 'SOCKET',
    }),
    'docker-host-path': Flags.string({ summary: 'accepted for compatibility; not needed', helpValue: 'SOCKET' }),
    platform: Flags.string({ summary: 'platform of the image', helpValue: 'OS/ARCH', default: 'linux/amd64' }),
    pull: Flags.option({
      options: pullPolicies,
      summary: 'when to pull the image',
      default: 'missing' as const,
    })(),
    compression: Flags.option({
      options: ['auto', ...sifCompressions] as const,
      summary: 'SquashFS compression; auto: zstd, or gzip where the site is too old for it',
      default: 'auto' as const,
    })(),
    'bandwidth-limit': bandwidthFlag,
    recipient: recipientFlag,
    ...durationFlags(),
    format: formatFlag,
  };

  async run(): Promise<Published | { sif: string }> {
    const { flags, raw } = await this.parse(ContainerPrep);
    const name = basename(flags['data-path'] ?? `prepared_${flags['base-oci-image'].replaceAll(/[^A-Za-z0-9._-]+/g, '_')}.sif`);
    // What can be wrong with the command line is said before the image is made.
    const plan = flags.encrypted ? await this.#plan(flags) : undefined;
    const directory = plan === undefined ? required(flags['sif-path'], 'sif-path') : '';
    if (plan === undefined) this.#warnOfUnused(raw.map((token) => (token.type === 'flag' ? token.flag : '')));
    const asked = {
      image: flags['base-oci-image'],
      platform: flags.platform,
      pull: flags.pull,
      dockerPath: flags['docker-path'],
      progress: this.progress,
    };
    if (plan === undefined) {
      // A SIF that is only written has no site to ask what it can read.
      const compression = flags.compression === 'auto' ? 'zstd' : flags.compression;
      await using image = await openImage({ ...asked, compression, signal: this.signal });
      const sif = join(directory, name);
      await keepOnly(image.source, sif);
      this.log(`SIF written, not encrypted: ${sif}`);
      return { sif };
    }
    const { apptainer } = plan.config.supercomputer;
    const published = await publish(
      {
        kind: 'image',
        open: async (site, signal) => {
          const fitting = async (): Promise<SifCompression> => siteCompression(await site, apptainer, { signal });
          const compression = flags.compression === 'auto' ? fitting() : flags.compression;
          return await openImage({ ...asked, compression, signal });
        },
        fileName: name,
        directory: plan.directory,
        format: flags.format,
        compress: 'none',
        readers: plan.readers,
        recipients: plan.recipients,
        bandwidth: flags['bandwidth-limit'],
      },
      { config: plan.config, signal: this.signal, progress: this.progress, warning: this.warning, meter: this.meter },
    );
    this.log(`image published: ${published.path} (${published.size} bytes)\ninfo record: ${published.info}`);
    return published;
  }

  #warnOfUnused(given: readonly string[]): void {
    const names = notPlain.filter((name) => given.includes(name)).map((name) => `--${name}`);
    if (names.length > 0)
      this.warning(`without --encrypted nothing is sealed, shipped or granted: ${names.join(', ')} count for nothing`);
  }

  async #plan(
    flags: Parameters<typeof readersOf>[0] &
      Parameters<typeof conditionsOf>[0] & {
        config: string | undefined;
        username: string | undefined;
        'data-path-at-rest': string | undefined;
        recipient: string[];
        format: SealFormat;
      },
  ): Promise<{ config: Config; readers: Readers; directory: string; recipients: Recipient[] }> {
    const config = withUsername(await loadConfig(flags.config), flags.username);
    const conditions = await conditionsOf(flags, { config, signal: this.signal, warn: this.warning });
    return {
      config,
      readers: { ...readersOf(flags), conditions },
      directory: required(flags['data-path-at-rest'], 'data-path-at-rest'),
      recipients: await this.recipients(config, flags),
    };
  }
}

function required(value: string | undefined, flag: string): string {
  if (value !== undefined) return value;
  throw new HpcsError('usage', 'missing-flag', `--${flag} is missing`, { suggestion: 'see hpcs container-prep --help' });
}

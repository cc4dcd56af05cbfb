import { writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Flags } from '@oclif/core';
import { BaseCommand } from '../../src/base-command.ts';
import { HpcsError } from '../../src/errors.ts';
import { writing } from '../../src/keep.ts';
import { makeDirectories } from '../../src/make-directories.ts';
import { loadServerConfig } from '../../src/server/config.ts';
import { Spire } from '../../src/server/spire.ts';

/** Writes the authorities of SPIRE to a file. */
export default class ServerTrustBundle extends BaseCommand {
  static override summary = "write SPIRE's trust bundle, for an agent that is to be started beside the HPCS server";
  static override description = `Asked over SPIRE's private socket (admin-socket in section [bootstrap]): an agent that has it knows SPIRE when it first meets it.`;
  static override examples = [
    '<%= config.bin %> server trust-bundle --config /etc/hpcs/hpcs-server.conf --output /etc/spire/bundle.pem',
  ];
  static override flags = {
    config: Flags.string({ summary: 'configuration file of the server', helpValue: 'FILE', required: true }),
    output: Flags.string({ summary: 'file for it', helpValue: 'FILE', required: true }),
  };

  async run(): Promise<{ file: string }> {
    const { flags } = await this.parse(ServerTrustBundle);
    const { 'admin-socket': socket } = (await loadServerConfig(flags.config)).bootstrap;
    if (socket === undefined) {
      throw new HpcsError('usage', 'config-invalid', `${flags.config}: section [bootstrap] names no admin-socket`, {
        suggestion: "name SPIRE's private socket there",
      });
    }
    using spire = new Spire(socket);
    const { x509 } = await spire.bundle();
    await writing(dirname(flags.output), makeDirectories(dirname(flags.output)));
    await writing(flags.output, writeFile(flags.output, x509, { mode: 0o644 }));
    this.log(flags.output);
    return { file: flags.output };
  }
}

import { Flags } from '@oclif/core';
import { BaseCommand } from '../../src/base-command.ts';
import { invite, type Invitation } from '../../src/server/invite.ts';
import { loadServerConfig } from '../../src/server/config.ts';

/** Makes an enrolment token. */
export default class ServerEnrol extends BaseCommand {
  static override summary = 'make a one-time token with which somebody enrols a key: hpcs enrol';
  static override description = `Run it where the HPCS server runs, with its configuration: it uses the server's identity. Give the token to the person \
over a channel that others do not read. Enrolling the same name again adds a key to the same client, for another machine.`;
  static override examples = [
    '<%= config.bin %> server enrol --config /etc/hpcs/hpcs-server.conf --name alice',
    'docker exec hpcs-server node /app/bin/dev.js server enrol --config /etc/hpcs/hpcs-server.conf --name alice --groups genomics',
  ];
  static override flags = {
    config: Flags.string({ summary: 'configuration file of the server', helpValue: 'FILE', required: true }),
    name: Flags.string({ summary: 'who it is for: owners of artefacts grant to this name', helpValue: 'NAME', required: true }),
    groups: Flags.string({
      summary: "groups of this person from then on, which owners can grant to; '' for none. Left out, they stay as they are",
      helpValue: 'A,B',
    }),
    lifetime: Flags.integer({
      summary: 'seconds in which the token must be used',
      helpValue: 'SECONDS',
      default: 86_400,
      min: 60,
      max: 30 * 86_400,
    }),
  };

  async run(): Promise<Invitation> {
    const { flags } = await this.parse(ServerEnrol);
    const config = await loadServerConfig(flags.config);
    const made = await invite(config, {
      name: flags.name,
      groups: flags.groups?.split(',').filter(Boolean),
      lifetime: flags.lifetime,
    });
    // The one result that is a secret: whoever runs this hands it on.
    this.log(made.token);
    this.progress(`enrolment token of ${flags.name}, to be used once before ${made.expires}: hpcs enrol`);
    return made;
  }
}

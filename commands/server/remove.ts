import { Args, Flags } from '@oclif/core';
import { BaseCommand } from '../../src/base-command.ts';
import { HpcsError } from '../../src/errors.ts';
import { removeClient, type RemovedClient } from '../../src/server/administration.ts';
import { loadServerConfig } from '../../src/server/config.ts';
import { confirm } from '../../src/terminal.ts';

/** Removes a client. */
export default class ServerRemove extends BaseCommand {
  static override summary = 'remove a client of the HPCS server: its keys, tokens, roles and identities';
  static override description = `It counts at once, for tokens of the vault and of SPIRE that were given already, and for jobs that wait. Keys that its jobs have read cannot be called back. \
What it granted of its own artefacts to others stays granted, unless --destroy-artefacts destroys their keys. Its name can be enrolled again, as another client.

Run it where the HPCS server runs, with its configuration: it uses the server's identity.`;
  static override examples = [
    '<%= config.bin %> server remove --config /etc/hpcs/hpcs-server.conf alice',
    '<%= config.bin %> server remove --config /etc/hpcs/hpcs-server.conf oidc:idp:f81d4fae',
    '<%= config.bin %> server remove --config /etc/hpcs/hpcs-server.conf 0123456af --destroy-artefacts --yes',
  ];
  static override args = {
    client: Args.string({ description: 'its id or its name, as server clients shows them', required: true, ignoreStdin: true }),
  };
  static override flags = {
    config: Flags.string({ summary: 'configuration file of the server', helpValue: 'FILE', required: true }),
    'destroy-artefacts': Flags.boolean({ summary: 'destroy the keys of all it published, for good', default: false }),
    yes: Flags.boolean({ char: 'y', summary: 'do not ask', default: false }),
  };

  async run(): Promise<RemovedClient> {
    const { args, flags } = await this.parse(ServerRemove);
    const config = await loadServerConfig(flags.config);
    const destroy = flags['destroy-artefacts'];
    const question = `remove the client ${args.client}${destroy ? ', and destroy the keys of all it published,' : ''} for good? (yes/no) `;
    if (!flags.yes && !(await confirm(question, this.signal))) {
      throw new HpcsError('usage', 'not-confirmed', 'nobody was removed, since nobody confirmed it', {
        suggestion: 'answer yes on a terminal, or give --yes',
      });
    }
    const removed = await removeClient(config, args.client, {
      destroy,
      stays: (agent) =>
        this.warning(
          `SPIRE did not let this server remove the agent ${agent}, which has nothing of the client's any more: spire-server agent evict -spiffeID ${agent}`,
        ),
    });
    this.log(`removed client ${removed.id}${removed.name === removed.id ? '' : ` (${removed.name})`}`);
    if (removed.destroyed > 0) this.log(`destroyed the keys of ${removed.destroyed} artefacts and jobs`);
    if (removed.left > 0)
      this.warning(`${removed.left} of its keys stay in the vault, for those it granted to: --destroy-artefacts destroys them`);
    return removed;
  }
}

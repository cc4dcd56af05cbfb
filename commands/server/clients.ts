import { Flags } from '@oclif/core';
import { BaseCommand } from '../../src/base-command.ts';
import { listClients, type ShownClient } from '../../src/server/administration.ts';
import { loadServerConfig } from '../../src/server/config.ts';
import { table } from '../../src/table.ts';

/** Lists the clients of the HPCS server. */
export default class ServerClients extends BaseCommand {
  static override summary = 'list the clients of the HPCS server, with their groups and keys';
  static override description = `"server remove" takes what stands under CLIENT, and what stands under NAME where no two have it; "server revoke-key" takes what stands under KEYS.

Run it where the HPCS server runs, with its configuration: it uses the server's identity. Clients that SPIRE alone knows are not among them.`;
  static override examples = ['<%= config.bin %> server clients --config /etc/hpcs/hpcs-server.conf'];
  static override flags = {
    config: Flags.string({ summary: 'configuration file of the server', helpValue: 'FILE', required: true }),
  };

  async run(): Promise<ShownClient[]> {
    const { flags } = await this.parse(ServerClients);
    const clients = await listClients(await loadServerConfig(flags.config), ({ message, suggestion }) =>
      this.warning(`${message}: ${suggestion ?? ''}`),
    );
    const rows = clients.map(({ id, name, groups, created, removed, keys }) => [
      id,
      name,
      groups.join(',') || '-',
      removed === undefined ? `since ${created}` : `removed ${removed}`,
      keys.join(' ') || '-',
    ]);
    for (const line of table([['CLIENT', 'NAME', 'GROUPS', 'STATE', 'KEYS'], ...rows])) this.log(line);
    return clients;
  }
}

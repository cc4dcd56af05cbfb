import { once } from 'node:events';
import { Flags } from '@oclif/core';
import { BaseCommand } from '../src/base-command.ts';
import { loadServerConfig } from '../src/server/config.ts';
import { startServer } from '../src/server/server.ts';

export default class Server extends BaseCommand {
  static override summary = 'serve identities and grants to clients: the HPCS server';
  static override description = `Runs until SIGTERM or SIGINT, then lets the requests under way end.

It needs a SPIRE agent that gives it an identity of its own, the SPIRE server, and a vault (OpenBao or HashiCorp Vault) with a role for that \
identity. \`server bootstrap\` and \`server spire-policy\` set those up; docker/server has a configuration to start from.

Log lines are JSON on standard error.`;
  static override enableJsonFlag = false;
  static override examples = ['<%= config.bin %> server --config /etc/hpcs/hpcs-server.conf'];

  static override flags = {
    config: Flags.string({ summary: 'configuration file of the server', helpValue: 'FILE', required: true }),
    'allow-legacy-registration': Flags.boolean({
      summary: 'let anyone register as a client or a compute node, as the original server does',
      description: 'Everyone who reaches the server gets identities. Only for trying the system out.',
    }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(Server);
    const config = await loadServerConfig(flags.config);
    await using server = await startServer(config, {
      allowLegacyRegistration: flags['allow-legacy-registration'],
      log: process.stderr,
    });
    this.progress(`serving at ${server.url}`);
    if (!this.signal.aborted) await once(this.signal, 'abort');
  }
}

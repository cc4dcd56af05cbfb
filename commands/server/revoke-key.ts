import { Args, Flags } from '@oclif/core';
import { BaseCommand } from '../../src/base-command.ts';
import { revokeKey } from '../../src/server/administration.ts';
import { loadServerConfig } from '../../src/server/config.ts';

/** Revokes a key. */
export default class ServerRevokeKey extends BaseCommand {
  static override summary = 'revoke one key of a client, such as that of a machine that was lost';
  static override description = `No call that it proves counts any more, for good: neither a login nor an enrolment token makes it count again. The client and its other keys stay; so do tokens that were made with the key, for up to ten minutes (jwt-svid-ttl, and five more at the vault): \
to cut those at once, remove the client (server remove).

Run it where the HPCS server runs, with its configuration: it uses the server's identity.`;
  static override examples = ['<%= config.bin %> server revoke-key --config /etc/hpcs/hpcs-server.conf -- THUMBPRINT'];
  static override args = {
    key: Args.string({ description: 'its thumbprint, as server clients shows it', required: true, ignoreStdin: true }),
  };
  static override flags = {
    config: Flags.string({ summary: 'configuration file of the server', helpValue: 'FILE', required: true }),
  };

  async run(): Promise<{ client: string; key: string }> {
    const { args, flags } = await this.parse(ServerRevokeKey);
    const { client } = await revokeKey(await loadServerConfig(flags.config), args.key);
    this.log(`revoked a key of client ${client}`);
    return { client, key: args.key };
  }
}

import { Args, Flags } from '@oclif/core';
import { namedSecret } from '../../src/access/artefact.ts';
import { describeAccess, openOwner } from '../../src/access/owner.ts';
import { readersOf } from '../../src/access/readers.ts';
import { artefactArg, BaseCommand, configFlag } from '../../src/base-command.ts';
import { loadConfig } from '../../src/config.ts';
import { HpcsError } from '../../src/errors.ts';

/** Takes grants of an artefact back. */
export default class AccessRevoke extends BaseCommand {
  static override summary = 'take back what you granted of an artefact';
  static override description = `It counts at once: jobs that wait lose their right, and in agent mode tokens that were given already open nothing any more. \
Keys that a job has read cannot be called back. In agent mode all readers share one identity, so that only --all takes it from them.`;
  static override examples = [
    '<%= config.bin %> access revoke /scratch/…/data.tgz.info.yaml -u bert',
    '<%= config.bin %> access revoke client_0123456af/data-… --grant 1a2b3c4d',
    '<%= config.bin %> access revoke /scratch/…/data.tgz.info.yaml --all',
  ];
  static override args = { artefact: Args.string({ ...artefactArg, required: true }) };
  static override flags = {
    config: configFlag,
    users: Flags.string({ char: 'u', summary: 'clients, by name or id', helpValue: 'A,B' }),
    groups: Flags.string({ char: 'g', summary: 'groups of clients', helpValue: 'A,B' }),
    grant: Flags.string({
      summary: 'the grant of this id, as access list shows it (may be repeated)',
      helpValue: 'ID',
      multiple: true,
      default: [],
    }),
    all: Flags.boolean({ summary: 'everything: only you may use it then', default: false }),
  };

  async run(): Promise<{ secretPath: string; revoked: number; readers: number; still: string[] }> {
    const { args, flags } = await this.parse(AccessRevoke);
    const { users: clients, groups } = readersOf(flags);
    const { grant: grants, all } = flags;
    const strange = grants.find((grant) => !/^[0-9a-f]{8}$/.test(grant));
    if (strange !== undefined) {
      throw new HpcsError('usage', 'bad-grant', `${JSON.stringify(strange)} is not the id of a grant`, {
        suggestion: 'see the ids, of 8 characters each: hpcs access list',
      });
    }
    if (!all && clients.length + groups.length + grants.length === 0) {
      throw new HpcsError('usage', 'nothing-named', 'nothing is named that is to be taken back', {
        suggestion: 'name clients with -u, groups with -g, a grant with --grant, or everything with --all',
      });
    }
    const config = await loadConfig(flags.config);
    const secretPath = await namedSecret(args.artefact, { config, signal: this.signal, warn: this.warning });
    await using owner = await openOwner(config, { signal: this.signal, progress: this.progress });
    const { server } = owner.services;
    const { prove } = owner.identity;
    const taken = await server.revokeAccess({ secretPath, grants, clients, groups, all }, prove, this.signal);
    const [now] = await server.listAccess(secretPath, prove, this.signal);
    if (now !== undefined) for (const line of describeAccess(now)) this.log(line);
    for (const name of taken.still) this.warning(`${name} still may use it, by another grant`);
    if (taken.revoked + taken.readers === 0 && !all) {
      throw new HpcsError('usage', 'not-granted', `nothing of this was granted of ${secretPath}`, {
        suggestion: 'see what is: hpcs access list',
      });
    }
    return { secretPath, ...taken };
  }
}

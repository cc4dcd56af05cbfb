import { Args, Flags } from '@oclif/core';
import { namedSecret } from '../../src/access/artefact.ts';
import { describeAccess, openOwner } from '../../src/access/owner.ts';
import { readersOf } from '../../src/access/readers.ts';
import { artefactArg, BaseCommand, conditionFlags, configFlag } from '../../src/base-command.ts';
import { loadConfig } from '../../src/config.ts';
import { HpcsError } from '../../src/errors.ts';
import { knownReaders } from '../../src/grant.ts';
import { conditionsOf } from '../../src/access/conditions.ts';

/** Lets more clients use an artefact. */
export default class AccessGrant extends BaseCommand {
  static override summary = 'let more clients use an artefact of yours in their jobs';
  static override description = `The grants that there are stay. A client to whom several were made may use the artefact where any of them lets it. \
The conditions are checked by the HPCS server when a job is submitted and when it gets its keys; what they do not protect against is in docs/identity.md. \
An artefact that was not published from this state directory is named by its secret: of its path the site alone says what it is.`;
  static override examples = [
    '<%= config.bin %> access grant /scratch/…/data.tgz.info.yaml -u bert --grant-image /scratch/…/image.sif.info.yaml --grant-until 30d --grant-jobs 10',
  ];
  static override args = { artefact: Args.string({ ...artefactArg, required: true }) };
  static override flags = {
    config: configFlag,
    users: Flags.string({ char: 'u', summary: 'clients, by name or id', helpValue: 'A,B' }),
    groups: Flags.string({ char: 'g', summary: 'groups of clients', helpValue: 'A,B' }),
    ...conditionFlags,
  };

  async run(): Promise<{ secretPath: string; grant: string; clients: Record<string, string> }> {
    const { args, flags } = await this.parse(AccessGrant);
    const asked = readersOf(flags);
    if (asked.users.length + asked.groups.length === 0) {
      throw new HpcsError('usage', 'no-readers', 'nobody is named who may use the artefact', {
        suggestion: 'name clients with -u or groups of clients with -g',
      });
    }
    const config = await loadConfig(flags.config);
    const context = { config, signal: this.signal, warn: this.warning };
    const secretPath = await namedSecret(args.artefact, context, 'refuse');
    const conditions = await conditionsOf(flags, context);
    await using owner = await openOwner(config, { signal: this.signal, progress: this.progress });
    const { services, identity } = owner;
    const granter = { services, identity, mode: 'job' as const, signal: this.signal };
    const readers = await knownReaders({ ...asked, conditions }, config.supercomputer.username, granter);
    const { users, groups } = readers;
    const wanted = { clients: users, groups, ...conditions };
    const made = await services.server.addGrant(secretPath, wanted, identity.prove, this.signal);
    const now = await services.server.listAccess(secretPath, identity.prove, this.signal);
    for (const line of now.flatMap(describeAccess)) this.log(line);
    return { secretPath, ...made };
  }
}

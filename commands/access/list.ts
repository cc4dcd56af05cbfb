import { Args } from '@oclif/core';
import { namedSecret } from '../../src/access/artefact.ts';
import { describeAccess, openOwner } from '../../src/access/owner.ts';
import { artefactArg, BaseCommand, configFlag } from '../../src/base-command.ts';
import { loadConfig } from '../../src/config.ts';
import type { SecretAccess } from '../../src/hpcs.ts';

/** Shows who may use an artefact. */
export default class AccessList extends BaseCommand {
  static override summary = 'show who may use your artefacts, under what conditions';
  static override description = `Of one artefact all grants are shown, and in agent mode its readers on nodes; without one, all of yours that you granted to clients.`;
  static override examples = ['<%= config.bin %> access list', '<%= config.bin %> access list /scratch/…/data.tgz.info.yaml'];
  static override args = { artefact: Args.string(artefactArg) };
  static override flags = { config: configFlag };

  async run(): Promise<SecretAccess[]> {
    const { args, flags } = await this.parse(AccessList);
    const config = await loadConfig(flags.config);
    const context = { config, signal: this.signal, warn: this.warning };
    const secret = args.artefact === undefined ? undefined : await namedSecret(args.artefact, context);
    await using owner = await openOwner(config, { signal: this.signal, progress: this.progress });
    const found = await owner.services.server.listAccess(secret, owner.identity.prove, this.signal);
    for (const line of found.flatMap(describeAccess)) this.log(line);
    if (found.length === 0) this.progress('you granted nothing to clients');
    return found;
  }
}

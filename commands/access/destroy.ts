import { Args, Flags } from '@oclif/core';
import { namedSecret } from '../../src/access/artefact.ts';
import { openOwner } from '../../src/access/owner.ts';
import { artefactArg, BaseCommand, configFlag } from '../../src/base-command.ts';
import { loadConfig } from '../../src/config.ts';
import { HpcsError } from '../../src/errors.ts';
import { confirm } from '../../src/terminal.ts';

/** Destroys the key of an artefact. */
export default class AccessDestroy extends BaseCommand {
  static override summary = 'destroy the key of an artefact of yours, for good';
  static override description = `The vault forgets the key with all its versions, and everything that let it be read: nobody opens the artefact any more by way of the vault, you neither. It may be repeated, which completes what \
was interrupted, and ends with the error that there is no key. What cannot be undone stays: a job that has read the key has it, and recipients named at preparation open the sealed file with their own. \
The sealed file and its info record stay on the site; remove them there.`;
  static override examples = [
    '<%= config.bin %> access destroy /scratch/…/data.tgz.info.yaml',
    '<%= config.bin %> access destroy client_0123456af/data-… --yes',
  ];
  static override args = { artefact: Args.string({ ...artefactArg, required: true }) };
  static override flags = {
    config: configFlag,
    yes: Flags.boolean({ char: 'y', summary: 'do not ask', default: false }),
  };

  async run(): Promise<{ secretPath: string }> {
    const { args, flags } = await this.parse(AccessDestroy);
    const config = await loadConfig(flags.config);
    const context = { config, signal: this.signal, warn: this.warning };
    const secretPath = await namedSecret(args.artefact, context, flags.yes ? 'refuse' : 'warn');
    await using owner = await openOwner(config, { signal: this.signal, progress: this.progress });
    // This says whether there is such a secret, and that it is the caller's.
    const { server } = owner.services;
    const { prove } = owner.identity;
    const there = await server.listAccess(secretPath, prove, this.signal).then(
      () => true,
      (error: unknown) => {
        // The key goes first: where a run ended behind that, what let it be read is left.
        if (error instanceof HpcsError && error.code === 'hpcs-not-found') return false;
        throw error;
      },
    );
    // What is not found may be there: a proxy before the server answers so, too, while that starts anew.
    const question = there
      ? `destroy the key of ${secretPath} for good? (yes/no) `
      : `no key of ${secretPath} was found. Remove what is left of its readers and grants, and destroy the key if there is one after all? (yes/no) `;
    if (!flags.yes && !(await confirm(question, this.signal))) {
      throw new HpcsError('usage', 'not-confirmed', 'nothing was destroyed, since nobody confirmed it', {
        suggestion: 'answer yes on a terminal, or give --yes',
      });
    }
    await server.destroySecret(secretPath, prove, this.signal);
    if (!there) {
      throw new HpcsError(
        'identity',
        'no-such-key',
        `the vault holds no key of ${secretPath}; what was left of its readers and grants is removed`,
        {
          suggestion: 'where it was destroyed before, that is all; else check the name, which hpcs access list shows',
        },
      );
    }
    this.log(`destroyed the key of ${secretPath}`);
    this.warning('a job that has read it has it still, and so have recipients their own');
    return { secretPath };
  }
}

import { Flags } from '@oclif/core';
import { BaseCommand } from '../../src/base-command.ts';
import { HpcsError } from '../../src/errors.ts';
import { readToken } from '../../src/secret-input.ts';
import { bootstrap, revokeToken } from '../../src/server/bootstrap.ts';
import { loadServerConfig } from '../../src/server/config.ts';
import type { StepReport } from '../../src/server/steps.ts';

const words: Record<StepReport['state'], string> = {
  right: 'ok',
  done: 'made',
  missing: 'MISSING',
  wrong: 'WRONG',
  unknown: 'not seen',
};

/** Sets up vault and SPIRE for the server. */
export default class ServerBootstrap extends BaseCommand {
  static override summary = 'set up the vault and SPIRE for an HPCS server';
  static override description = `A namespace of its own in the vault, with KV, the JWT method, and policy and role of the server; its entry in SPIRE. \
What is right already is left alone, so that it can be repeated at any time, also after it was interrupted; what cannot be put right is named. \
Sections [vault], [spire-server] and [bootstrap] of the configuration say how.

The token of an administrator of the vault is read from standard input (a terminal asks for it, and does not show it), or from a file. Nothing keeps it, and nothing needs it afterwards.`;
  static override examples = [
    '<%= config.bin %> server bootstrap --config /etc/hpcs/hpcs-server.conf < administrator-token',
    '<%= config.bin %> server bootstrap --config /etc/hpcs/hpcs-server.conf --check --token-file administrator-token',
  ];
  static override flags = {
    config: Flags.string({ summary: 'configuration file of the server', helpValue: 'FILE', required: true }),
    check: Flags.boolean({ summary: 'only look, and change nothing' }),
    'revoke-token': Flags.boolean({
      summary: 'revoke that token when all is right, for one that was made for this',
      exclusive: ['check'],
    }),
    'token-file': Flags.string({
      summary: "file with the token of the vault's administrator (default: standard input)",
      helpValue: 'FILE',
    }),
  };

  async run(): Promise<{ steps: StepReport[] }> {
    const { flags } = await this.parse(ServerBootstrap);
    const config = await loadServerConfig(flags.config);
    using token = await readToken({
      file: flags['token-file'],
      what: 'token of the vault',
      form: /^[\x21-\x7e]{8,4096}$/,
      expected: { form: 'one is a single word', suggestion: "give that of the vault's administrator" },
      signal: this.signal,
    });
    const report = (step: StepReport): void => {
      const why = step.why === undefined ? '' : `: ${step.why}`;
      this.log(`${words[step.state].padEnd(8)}  ${step.what}${why}`);
    };
    const steps = await bootstrap(config, { token, check: flags.check, report, signal: this.signal });
    const open = steps.filter(({ state }) => state === 'missing' || state === 'wrong');
    if (open.length === 0) {
      if (flags['revoke-token']) await revokeToken(config, token);
      return { steps };
    }
    throw new HpcsError('identity', 'bootstrap-incomplete', `not as it has to be: ${open.map(({ what }) => what).join('; ')}`, {
      result: { steps },
      suggestion: flags.check
        ? 'run it without --check, and put right what is WRONG'
        : 'put right what is WRONG, and run it again',
    });
  }
}

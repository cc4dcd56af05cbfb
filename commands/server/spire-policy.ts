import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Flags } from '@oclif/core';
import { BaseCommand } from '../../src/base-command.ts';
import { writing } from '../../src/keep.ts';
import { makeDirectories } from '../../src/make-directories.ts';
import { loadServerConfig } from '../../src/server/config.ts';
import { spirePolicy } from '../../src/server/spire-policy.ts';

/** Writes the files of SPIRE's authorization policy. */
export default class ServerSpirePolicy extends BaseCommand {
  static override summary = 'write the policy by which SPIRE confines the HPCS server';
  static override description = `Two files for auth_opa_policy_engine in server.conf of SPIRE: policy.rego and policy-data.json. With them \
SPIRE gives the HPCS server short-lived identities of clients and jobs, for its own audiences, and nothing else, whatever it asks for; everybody else may \
what SPIRE lets them do without a policy. SPIRE reads them when it starts.`;
  static override examples = ['<%= config.bin %> server spire-policy --config /etc/hpcs/hpcs-server.conf --output /etc/spire'];
  static override flags = {
    config: Flags.string({ summary: 'configuration file of the server', helpValue: 'FILE', required: true }),
    output: Flags.string({ summary: 'directory for the two files', helpValue: 'DIR', default: '.' }),
    'agent-mode': Flags.boolean({
      summary: 'allow what agent mode needs: entries of clients and readers, join tokens of clients and nodes',
      allowNo: true,
      default: true,
    }),
  };

  async run(): Promise<{ files: string[] }> {
    const { flags } = await this.parse(ServerSpirePolicy);
    const policy = await spirePolicy(await loadServerConfig(flags.config), { agentMode: flags['agent-mode'] });
    const files = [join(flags.output, 'policy.rego'), join(flags.output, 'policy-data.json')] as const;
    await writing(flags.output, makeDirectories(flags.output));
    // No secrets: whoever SPIRE runs as must read them.
    await writing(files[0], writeFile(files[0], policy.rego, { mode: 0o644 }));
    await writing(files[1], writeFile(files[1], policy.data, { mode: 0o644 }));
    this.log(files.join('\n'));
    return { files: [...files] };
  }
}

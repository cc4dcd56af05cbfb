import { Flags } from '@oclif/core';
import { BaseCommand } from '../../src/base-command.ts';
import { buildToolKit, toolKitPrograms } from '../../src/tool-kit-build.ts';

/** Makes the archive that jobs run from. */
export default class ToolKitBuild extends BaseCommand {
  static override summary = 'make the tool kit: the one archive with all that a compute node needs';
  static override description = `It holds Node, hpcs-node, ${toolKitPrograms.join(' and ')}. The job-prep image and the sandbox carry one.`;
  static override examples = ['<%= config.bin %> tool-kit build --programs ./programs --output tool-kit.tar.gz'];
  static override flags = {
    programs: Flags.string({
      summary: `directory with the programs ${toolKitPrograms.join(' and ')} for the site's machines`,
      helpValue: 'DIR',
      required: true,
    }),
    output: Flags.string({ char: 'o', summary: 'archive to write', helpValue: 'FILE', required: true }),
  };

  async run(): Promise<{ path: string }> {
    const { flags } = await this.parse(ToolKitBuild);
    await buildToolKit(flags.programs, flags.output);
    this.log(`tool kit: ${flags.output}`);
    return { path: flags.output };
  }
}

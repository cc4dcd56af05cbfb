import { BaseCommand } from '../../src/base-command.ts';
import { connectDocker } from '../../src/image/docker.ts';
import { directoryFlag, nameFlag, sandboxDirectory } from '../../src/sandbox/directory.ts';
import { sandboxDown } from '../../src/sandbox/sandbox.ts';

/** Removes the sandbox. */
export default class SandboxDown extends BaseCommand {
  static override summary = 'remove the sandbox: containers, network, volumes and its files';
  static override description = 'Images stay, so that the next start is quick. Whatever lay on the site or in the vault is gone.';
  static override examples = ['<%= config.bin %> sandbox down'];

  static override flags = { directory: directoryFlag, name: nameFlag };

  async run(): Promise<{ removed: true }> {
    const { flags } = await this.parse(SandboxDown);
    const directory = await sandboxDirectory(flags);
    await sandboxDown({ docker: await connectDocker({ signal: this.signal }), directory, name: flags.name, signal: this.signal });
    this.log('the sandbox is gone');
    return { removed: true };
  }
}

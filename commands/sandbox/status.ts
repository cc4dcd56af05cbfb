import { BaseCommand } from '../../src/base-command.ts';
import { connectDocker } from '../../src/image/docker.ts';
import { directoryFlag, nameFlag, sandboxDirectory } from '../../src/sandbox/directory.ts';
import { sandboxStatus, type SandboxStatus } from '../../src/sandbox/sandbox.ts';

/** Shows the sandbox. */
export default class SandboxStatusCommand extends BaseCommand {
  static override summary = 'show whether the sandbox is up, part by part';
  static override description = 'Exit code 3 when a part is missing or not healthy.';
  static override examples = ['<%= config.bin %> sandbox status', '<%= config.bin %> sandbox status --json'];

  static override flags = { directory: directoryFlag, name: nameFlag };

  async run(): Promise<SandboxStatus> {
    const { flags } = await this.parse(SandboxStatusCommand);
    const directory = await sandboxDirectory(flags);
    const status = await sandboxStatus({
      docker: await connectDocker({ signal: this.signal }),
      directory,
      name: flags.name,
      signal: this.signal,
    });
    for (const { name, state, detail } of status.parts)
      this.log(`${name.padEnd(28)} ${state}${detail === undefined ? '' : `: ${detail}`}`);
    if (status.healthy) this.log(`configuration: ${status.configuration}`);
    else process.exitCode = 3;
    return status;
  }
}

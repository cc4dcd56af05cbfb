import { Flags } from '@oclif/core';
import { BaseCommand } from '../../src/base-command.ts';
import { connectDocker } from '../../src/image/docker.ts';
import { directoryFlag, nameFlag, sandboxDirectory } from '../../src/sandbox/directory.ts';
import { sandboxUp, type SandboxStatus } from '../../src/sandbox/sandbox.ts';

/** Starts the sandbox. */
export default class SandboxUp extends BaseCommand {
  static override summary = 'start a whole site with its trust services on this machine, in containers';
  static override description = `SSH, Slurm and Apptainer; SPIRE, OpenBao and an HPCS server, with TLS on every link. A sandbox that is up stays \
as it is; one that is not whole, or is asked for with other nodes or servers, is made anew, and what lay in it is gone.

Its client is enrolled, with a key in the directory. The token of the vault's administrator lies there too (openbao.json, mode 0600): for trying \
and testing, never for real data.`;
  static override examples = ['<%= config.bin %> sandbox up', '<%= config.bin %> sandbox up --nodes 2 --directory .sandbox'];

  static override flags = {
    directory: directoryFlag,
    name: nameFlag,
    nodes: Flags.integer({
      summary:
        'compute nodes in containers of their own; 0: one container is login node and compute node (default: as it is, else 0)',
      helpValue: 'N',
      min: 0,
      max: 16,
    }),
    'allow-legacy-registration': Flags.boolean({
      summary: 'start a second HPCS server that gives identities to anyone, for clients of the original (default: as it is)',
      allowNo: true,
    }),
  };

  async run(): Promise<SandboxStatus> {
    const { flags } = await this.parse(SandboxUp);
    const directory = await sandboxDirectory(flags);
    const docker = await connectDocker({ signal: this.signal });
    const status = await sandboxUp({
      docker,
      directory,
      name: flags.name,
      nodes: flags.nodes,
      legacy: flags['allow-legacy-registration'],
      signal: this.signal,
      progress: this.progress,
    });
    if (status.parts.some(({ name }) => name.endsWith('-legacy')))
      this.warning('a second HPCS server runs with --allow-legacy-registration: anyone who reaches it becomes a client');
    this.log(`the sandbox is up\n  export HPCS_CONFIG=${status.configuration}`);
    return status;
  }
}

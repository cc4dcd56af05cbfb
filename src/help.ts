import { CommandHelp, Help } from '@oclif/core';

/** The help of a command: oclif's, which would tell the summary a second time before the description. */
class OwnCommandHelp extends CommandHelp {
  protected override description(): string | undefined {
    const { description } = this.command;
    return description === undefined ? undefined : this.wrap(description);
  }
}

/** The help that package.json names to oclif. */
export default class OwnHelp extends Help {
  protected override CommandHelpClass = OwnCommandHelp;
}

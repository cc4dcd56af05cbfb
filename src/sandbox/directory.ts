import { join, resolve } from 'node:path';
import { Flags } from '@oclif/core';
import { stateDirectory } from '../state.ts';

/** The flag of all commands on the sandbox. */
export const directoryFlag = Flags.string({
  summary: 'directory for configuration, keys and tool kit (default: sandbox in the state directory)',
  helpValue: 'DIR',
});

/** The sandbox's directory, absolute. @param flag value of `--directory` */
export async function sandboxDirectory(flag: string | undefined): Promise<string> {
  return flag === undefined ? join(await stateDirectory(undefined), 'sandbox') : resolve(flag);
}

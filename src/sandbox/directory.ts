import { join, resolve } from 'node:path';
import { Flags } from '@oclif/core';
import { HpcsError } from '../errors.ts';
import { stateDirectory } from '../state.ts';
import { defaultName } from './names.ts';

/** The flag of all commands on the sandbox. */
export const directoryFlag = Flags.string({
  summary: 'directory for configuration, keys and tool kit (default: in the state directory)',
  helpValue: 'DIR',
});

/** The sandbox's directory, absolute. */
export async function sandboxDirectory(flags: { directory: string | undefined; name: string }): Promise<string> {
  if (flags.directory !== undefined) return resolve(flags.directory);
  return join(await stateDirectory(undefined), flags.name === defaultName ? 'sandbox' : flags.name);
}

/** The flag of all commands on the sandbox, for more than one on a machine. */
export const nameFlag = Flags.string({
  summary: 'name of the network, and beginning of the names of containers',
  helpValue: 'NAME',
  default: defaultName,
  parse: async (value) => {
    if (/^[a-z][a-z0-9-]{0,39}$/.test(value)) return value;
    throw new HpcsError('usage', 'bad-name', `not a name for a sandbox: ${value}`, {
      suggestion: 'use lower-case letters, digits, dashes',
    });
  },
});

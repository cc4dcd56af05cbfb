import { Args, Flags } from '@oclif/core';
import { BaseCommand } from '../src/base-command.ts';
import { HpcsError } from '../src/errors.ts';
import { restore, type Restored } from '../src/pack/restore.ts';
import { toStandardOutput } from '../src/pack/standard-output.ts';
import { readBytes } from '../src/seal/files.ts';
import { open, openTwice } from '../src/seal/open.ts';
import { unlock } from '../src/seal/unlock.ts';
import type { Secret } from '../src/secret.ts';
import { readKey, readPassphrase } from '../src/secret-input.ts';
import { askHidden } from '../src/terminal.ts';

/** Decrypts and unpacks an artefact or a result. */
export default class Open extends BaseCommand {
  static override summary = 'decrypt and unpack a sealed artefact or result';
  static override description = `Nothing appears in the output directory unless all of the file is authentic and complete. \
With "--output -" the decrypted bytes go to standard output while they are read: use them only when the exit code is 0. A file in the \
format openpgp-gpg, which can be checked only at its end, is then read twice, first to check it.`;
  static override examples = [
    '<%= config.bin %> open encrypted_jp2a_input.tgz --key-file artefact.key --output opened',
    '<%= config.bin %> open encrypted_jp2a_input.tgz --key owner.key --output opened',
    'vault kv get -field=key kv/client_1a2b3c4d5/NAME | <%= config.bin %> open encrypted_jp2a_input.tgz --key-file - --output opened',
  ];
  static override args = {
    sealed: Args.string({ description: 'the sealed file', required: true, ignoreStdin: true }),
  };
  static override flags = {
    'key-file': Flags.string({ aliases: ['key'], summary: 'file of mode 0600 with the secret key of the artefact or of a recipient, or - for standard input', helpValue: 'FILE', required: true }), // prettier-ignore
    'passphrase-file': Flags.string({ summary: 'file of mode 0600 with the passphrase of a protected key, or - for standard input (default: asked on the terminal)', helpValue: 'FILE' }), // prettier-ignore
    output: Flags.string({ char: 'o', summary: 'directory for what is in it, or - for standard output', helpValue: 'DIR', required: true }), // prettier-ignore
  };

  async run(): Promise<Restored> {
    const { args, flags } = await this.parse(Open);
    if (flags['key-file'] === '-' && flags['passphrase-file'] === '-')
      throw new HpcsError('usage', 'usage', 'key and passphrase cannot both come from standard input', { suggestion: 'name a file for one of them' }); // prettier-ignore
    const passphrase = (): Promise<Secret> => askPassphrase(flags['key-file'], flags['passphrase-file'], this.signal);
    using key = await unlock(await readKey(flags['key-file'], this.signal), passphrase);
    if (flags.output === '-' && this.jsonEnabled())
      throw new HpcsError('usage', 'usage', 'the decrypted bytes and --json cannot share standard output', { suggestion: 'name a directory with --output' }); // prettier-ignore
    if (flags.output === '-')
      return {
        output: '-',
        entries: 1,
        bytes: await toStandardOutput(openTwice(() => readBytes(args.sealed), key, { signal: this.signal })),
      };
    // It appears in its place only when all was checked.
    const plain = open(readBytes(args.sealed), key, { signal: this.signal, checkedAtEnd: true });
    const restored = await restore(plain, args.sealed, flags.output, this.signal);
    this.log(`opened ${restored.output}: ${restored.entries} entries, ${restored.bytes} bytes`);
    return restored;
  }
}

async function askPassphrase(keyFile: string, passphraseFile: string | undefined, signal: AbortSignal): Promise<Secret> {
  if (passphraseFile !== undefined) return readPassphrase(passphraseFile, signal);
  const answer = await askHidden(`passphrase of ${keyFile === '-' ? 'the key' : keyFile}: `, { signal });
  if (answer !== undefined) return answer;
  throw new HpcsError(
    'usage',
    'key-protected',
    'the key is protected with a passphrase, and there is no terminal to ask for it',
    {
      suggestion: 'name a file with the passphrase: --passphrase-file FILE',
    },
  );
}

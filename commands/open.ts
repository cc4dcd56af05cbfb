import { Args, Flags } from '@oclif/core';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { BaseCommand } from '../src/base-command.ts';
import { HpcsError } from '../src/errors.ts';
import { restore, type Restored } from '../src/pack/restore.ts';
import { blockSize, type Bytes } from '../src/seal/bytes.ts';
import { readBytes, readKey } from '../src/seal/files.ts';
import { open } from '../src/seal/open.ts';

/** Decrypts and unpacks an artefact or a result. */
export default class Open extends BaseCommand {
  static override summary = 'decrypt and unpack a sealed artefact or result';
  static override description = `Nothing appears in the output directory unless all of the file is authentic and complete. \
With "--output -" the decrypted bytes go to standard output while they are read: use them only when the exit code is 0.`;
  static override examples = [
    '<%= config.bin %> open encrypted_jp2a_input.tgz --key-file artefact.key --output opened',
    'vault kv get -field=key kv/client_1a2b3c4d5/NAME | <%= config.bin %> open encrypted_jp2a_input.tgz --key-file - --output opened',
  ];
  static override args = {
    sealed: Args.string({ description: 'the sealed file', required: true, ignoreStdin: true }),
  };
  static override flags = {
    'key-file': Flags.string({ summary: 'file of mode 0600 with the secret key, or - for standard input', helpValue: 'FILE', required: true }), // prettier-ignore
    output: Flags.string({ char: 'o', summary: 'directory for what is in it, or - for standard output', helpValue: 'DIR', required: true }), // prettier-ignore
  };

  async run(): Promise<Restored> {
    const { args, flags } = await this.parse(Open);
    using key = await readKey(flags['key-file']);
    const plain = open(readBytes(args.sealed), key, { signal: this.signal });
    if (flags.output === '-' && this.jsonEnabled())
      throw new HpcsError('usage', 'usage', 'the decrypted bytes and --json cannot share standard output', { suggestion: 'name a directory with --output' }); // prettier-ignore
    if (flags.output === '-') return { output: '-', entries: 1, bytes: await toStandardOutput(plain) };
    const restored = await restore(plain, args.sealed, flags.output, this.signal);
    this.log(`opened ${restored.output}: ${restored.entries} entries, ${restored.bytes} bytes`);
    return restored;
  }
}

async function toStandardOutput(plain: Bytes): Promise<number> {
  if (process.stdout.isTTY) {
    throw new HpcsError('usage', 'terminal-output', 'the decrypted bytes are not for a terminal', {
      suggestion: 'pipe them somewhere, or name a directory with --output',
    });
  }
  let bytes = 0;
  const counted = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const piece of plain) {
      bytes += piece.length;
      yield piece;
    }
  };
  await pipeline(Readable.from(counted(), { objectMode: false, highWaterMark: blockSize }), process.stdout, { end: false });
  return bytes;
}

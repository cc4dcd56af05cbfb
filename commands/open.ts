import { Args, Flags } from '@oclif/core';
import { createReadStream, createWriteStream } from 'node:fs';
import { lstat, mkdir, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { BaseCommand } from '../src/base-command.ts';
import { HpcsError, systemCode } from '../src/errors.ts';
import { isTar } from '../src/pack/tar.ts';
import { unpack } from '../src/pack/unpack.ts';
import { readKeyFile } from '../src/seal/key-file.ts';
import { blockSize, ByteReader, type Bytes } from '../src/seal/bytes.ts';
import { open } from '../src/seal/open.ts';

/** What was opened: an unpacked archive, or one file. */
interface Opened {
  output: string;
  entries: number;
  bytes: number;
}

/** Decrypts and unpacks an artefact or a result. */
export default class Open extends BaseCommand {
  static override summary = 'decrypt and unpack a sealed artefact or result';
  static override description = `Nothing appears in the output directory unless all of the file is authentic and complete.
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

  async run(): Promise<Opened> {
    const { args, flags } = await this.parse(Open);
    using key = await readKeyFile(flags['key-file']);
    const plain = open(readSealed(args.sealed), key, { signal: this.signal });
    if (flags.output === '-') return { output: '-', entries: 1, bytes: await toStandardOutput(plain) };
    const opened = await this.#toDirectory(plain, args.sealed, flags.output);
    this.log(`opened ${opened.output}: ${opened.entries} entries, ${opened.bytes} bytes`);
    return opened;
  }

  /** An archive is unpacked; anything else (an image) becomes a file with the sealed file's name. */
  async #toDirectory(plain: Bytes, sealed: string, directory: string): Promise<Opened> {
    await using reader = new ByteReader(plain);
    if (isTar(await reader.peek(512))) return { output: directory, ...(await unpack(reader.rest(), directory, { signal: this.signal })) }; // prettier-ignore
    const output = join(directory, openedName(sealed));
    return { output, entries: 1, bytes: await toFile(reader.rest(), output, directory) };
  }
}

/** The name of what was sealed, where the file's name tells: `encrypted_x.sif` → `x.sif`. */
function openedName(sealed: string): string {
  const name = basename(sealed);
  const plain = name.replace(/^encrypted_/, '').replace(/\.(?:age|gpg|pgp)$/, '');
  return plain === name || plain === '' ? `${name}.opened` : plain;
}

async function* readSealed(path: string): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    yield* createReadStream(path, { highWaterMark: blockSize }) as AsyncIterable<Uint8Array>;
  } catch (error) {
    if (error instanceof HpcsError || systemCode(error) === undefined) throw error;
    throw new HpcsError('local', 'unreadable', `cannot read ${path}: ${systemCode(error)}`, { cause: error });
  }
}

/** Writes beside the final name, which appears when all is there. */
async function toFile(plain: Bytes, output: string, directory: string): Promise<number> {
  const partial = `${output}.${process.pid}.partial`;
  try {
    await mkdir(directory, { recursive: true });
    const taken = await lstat(output).catch(() => undefined);
    if (taken !== undefined) {
      throw new HpcsError('local', 'file-exists', `${output} exists already and is not overwritten`, {
        suggestion: 'choose another directory, or move it away',
      });
    }
    const file = createWriteStream(partial, { flags: 'wx', mode: 0o600, highWaterMark: blockSize });
    await pipeline(plain, file);
    await rename(partial, output);
    return file.bytesWritten;
  } catch (error) {
    await rm(partial, { force: true });
    if (error instanceof HpcsError) throw error;
    const code = systemCode(error);
    if (code === undefined) throw error;
    throw new HpcsError('local', code === 'ENOSPC' ? 'disk-full' : 'write-failed', `cannot write ${output}: ${code}`, {
      cause: error,
      suggestion: 'choose a directory with enough space in which you may write',
    });
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

import { HpcsError } from '../errors.ts';
import { readTar, tarCopy, tarEnd, type TarType } from '../pack/tar.ts';

/** What is known of an entry before its content has come. */
export interface FlatEntry {
  /** Without a leading `/` or `./` and without a final `/`; empty for the root itself. */
  readonly path: string;
  readonly type: TarType;
  /** Target of a link: of a hard link in the form of `path`, of a symbolic one verbatim. */
  readonly target: string;
  /** Bytes of content that follow. */
  readonly size: number;
}

/** Small pieces are gathered to about this many bytes, so that the engine's socket is not fed header by header. */
const batchSize = 64 * 1024;

/**
 * Passes a tar stream on, leaving entries out and adding some at its end. What is kept goes through byte for byte, with every
 * pax record.
 *
 * @param keep asked once for each entry, in order
 * @param append what to add, asked when all entries have been seen: whole entries, without an end of archive
 * @throws HpcsError `local` for what is no tar stream, or ends early
 */
export async function* rewriteTar(
  source: AsyncIterable<Uint8Array>,
  keep: (entry: FlatEntry) => boolean,
  append: () => Iterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  yield* batched(rewritten(source, keep, append));
}

async function* rewritten(
  source: AsyncIterable<Uint8Array>,
  keep: (entry: FlatEntry) => boolean,
  append: () => Iterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  try {
    for await (const entry of readTar(source)) {
      const { name, type, linkname, size } = entry;
      const target = type === 'hardlink' ? clean(linkname) : linkname;
      if (keep({ path: clean(name), type, target, size })) yield* tarCopy(entry);
    }
  } catch (error) {
    // Of an artefact this would be tampering; here it is an engine that broke off.
    if (!(error instanceof HpcsError) || error.kind !== 'integrity') throw error;
    throw new HpcsError('local', 'image-stream', `the file system of the image did not come whole: ${error.message}`, {
      cause: error,
      suggestion: 'try again, and see the log of the Docker engine',
    });
  }
  yield* append();
  yield tarEnd;
}

function clean(path: string): string {
  return path
    .replace(/^(\.?\/+)+/, '')
    .replace(/\/+$/, '')
    .replace(/^\.$/, '');
}

async function* batched(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of source) {
    parts.push(part);
    size += part.length;
    if (size < batchSize) continue;
    yield parts.length === 1 ? part : Buffer.concat(parts);
    parts = [];
    size = 0;
  }
  if (size > 0) yield Buffer.concat(parts);
}

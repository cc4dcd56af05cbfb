import { HpcsError } from '../errors.ts';

/** One piece of what a container wrote. Not aligned to lines or writes. */
export interface Output {
  readonly stream: 'stdout' | 'stderr';
  readonly bytes: Uint8Array;
}

/**
 * Reads the framed stream of an attached container: per frame one byte for the stream, three zero bytes, the length as 32 bit
 * big-endian, the bytes. Pieces are views of the source's chunks, so memory stays flat, and nothing is read that is not asked for.
 *
 * @throws HpcsError `local` for bytes that are no such stream, or one that ends within a frame
 * @see Docker Engine API, "Attach to a container", stream format
 */
export async function* readFrames(source: AsyncIterable<Uint8Array>): AsyncGenerator<Output> {
  const header = Buffer.alloc(8);
  let filled = 0;
  let left = 0;
  let stream: Output['stream'] = 'stdout';
  for await (const chunk of source) {
    let at = 0;
    while (at < chunk.length) {
      if (left > 0) {
        const bytes = chunk.subarray(at, at + left);
        at += bytes.length;
        left -= bytes.length;
        yield { stream, bytes };
        continue;
      }
      const part = chunk.subarray(at, at + 8 - filled);
      header.set(part, filled);
      filled += part.length;
      at += part.length;
      if (filled < 8) continue;
      filled = 0;
      const [kind = 0, ...zeros] = header.subarray(0, 4);
      if (kind > 2 || zeros.some(Boolean)) throw broken('an unknown frame');
      stream = kind === 2 ? 'stderr' : 'stdout';
      left = header.readUInt32BE(4);
    }
  }
  if (left > 0 || filled > 0) throw broken('an end within a frame');
}

function broken(what: string): HpcsError {
  return new HpcsError('local', 'docker-stream', `the stream of a container has ${what}`, {
    suggestion: 'try again; if it stays, the engine or a proxy before it is at fault',
  });
}

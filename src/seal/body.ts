import type { KeyObject } from 'node:crypto';
import type { Bytes } from './bytes.ts';
import { compressed, type Compression, type CompressOptions } from './compress.ts';
import { sealSeipd, type MessageKey } from './seipd.ts';
import { sealSeipd1 } from './seipd1.ts';
import { sealPayload } from './stream.ts';

/** What the bulk of sealed data is encrypted with, its header having been made. Can be handed to another thread. */
export type BodyKey = { format: 'openpgp'; key: MessageKey } | { format: 'age' | 'openpgp-gpg'; key: KeyObject };

/**
 * Compresses and encrypts a byte stream: all that follows the header.
 *
 * @param allocate memory for a piece of the result, of a little more than 1 MiB; each is yielded once, and not touched afterwards
 */
export function sealBody(
  input: Bytes,
  body: BodyKey,
  compress: Compression,
  { allocate, ...options }: CompressOptions & { allocate?: (size: number) => Buffer } = {},
): AsyncGenerator<Buffer, void, undefined> {
  const plain = compressed(input, compress, options);
  if (body.format === 'openpgp') return sealSeipd(plain, body.key, allocate);
  return body.format === 'age' ? sealPayload(plain, body.key, allocate) : sealSeipd1(plain, body.key, allocate);
}

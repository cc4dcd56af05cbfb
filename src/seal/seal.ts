import type { SealFormat } from './format.ts';
import { sealBody } from './body.ts';
import type { Bytes } from './bytes.ts';
import type { Compression } from './compress.ts';
import { digesting, type Summarised } from './digest.ts';
import { makeHeader } from './header.ts';

/** How to seal. */
export interface SealOptions {
  format: SealFormat;
  /** Public keys, any of whose secret keys opens the result: `age1…`, or armored OpenPGP certificates. At least one, unless a new key is made. */
  recipients: readonly string[];
  /** Default `auto`. Readers other than ours need `none`, or `zstd -d` after their decryption. */
  compress?: Compression | undefined;
  /** Ends the stream with its reason. */
  signal?: AbortSignal | undefined;
  /** Told how many bytes of the input have been taken so far. */
  onProgress?: ((plainBytes: number) => void) | undefined;
}

/**
 * Compresses, encrypts and digests a byte stream in one pass, in constant memory.
 *
 * @returns the sealed bytes (binary), read as fast as the consumer takes them, and their summary once the last one was taken
 * @throws HpcsError `usage` (from the iterator) for a recipient that is none
 */
export function seal(input: Bytes, options: SealOptions): Summarised {
  return digesting(sealed(watched(input, options), options));
}

async function* sealed(input: Bytes, options: SealOptions): AsyncGenerator<Uint8Array, void, undefined> {
  const { header, body } = await makeHeader(options.format, options.recipients);
  yield header;
  yield* sealBody(input, body, options.compress ?? 'auto');
}

async function* watched(input: Bytes, { signal, onProgress }: SealOptions): AsyncGenerator<Uint8Array, void, undefined> {
  signal?.throwIfAborted();
  let taken = 0;
  for await (const piece of input) {
    signal?.throwIfAborted();
    yield piece;
    taken += piece.length;
    onProgress?.(taken);
  }
  signal?.throwIfAborted();
}

import type { Compression } from './compress.ts';

/**
 * How an artefact is sealed: OpenPGP with AEAD (RFC 9580), age, or OpenPGP as every GnuPG opens it, which can be checked only at its
 * end. The original knows only `age`.
 */
export const sealFormats = ['openpgp', 'age', 'openpgp-gpg'] as const;
export type SealFormat = (typeof sealFormats)[number];

/**
 * What data is asked to be compressed with before it is encrypted: `auto` is zstd in the format whose every reader expands it; `zstd` is
 * so in any format; `none` keeps the sealed size from telling more of the content than its size.
 */
export const dataCompressions = ['auto', 'zstd', 'none'] as const;
export type DataCompression = (typeof dataCompressions)[number];

/** How the sealed stream is to compress data. */
export function compressionOf(asked: DataCompression, format: SealFormat): Compression {
  if (asked === 'none') return 'none';
  // Jobs of the original open age files straight into tar, and people do that with what gpg gives them.
  return asked === 'zstd' || format === 'openpgp' ? 'paced' : 'none';
}

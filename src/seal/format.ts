/**
 * How an artefact is sealed: OpenPGP with AEAD (RFC 9580), age, or OpenPGP as every GnuPG opens it, which can be checked only at its
 * end. The original knows only `age`.
 */
export const sealFormats = ['openpgp', 'age', 'openpgp-gpg'] as const;
export type SealFormat = (typeof sealFormats)[number];

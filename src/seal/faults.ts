import { HpcsError } from '../errors.ts';

// One function for each way in which sealed bytes can be wrong, so that both formats say the same in the same words.

/** The bytes are not what was sealed, or not well-formed. */
export function corrupt(what: string, cause?: unknown): HpcsError {
  return new HpcsError('integrity', 'corrupt', `the sealed data is damaged or was altered: ${what}`, {
    cause,
    suggestion: 'fetch it again from where it was made; if it stays so, do not use it',
  });
}

/** The bytes end before the sealed data does. */
export function truncated(): HpcsError {
  return new HpcsError('integrity', 'truncated', 'the sealed data ends too early', {
    suggestion: 'fetch it again; the transfer may have been cut',
  });
}

/** More bytes follow the end of the sealed data. */
export function trailingData(): HpcsError {
  return new HpcsError('integrity', 'trailing-data', 'more bytes follow the end of the sealed data', {
    suggestion: 'fetch it again from where it was made; if it stays so, do not use it',
  });
}

/** None of the keys opens the data. */
export function wrongKey(cause?: unknown): HpcsError {
  return new HpcsError('integrity', 'wrong-key', 'the sealed data cannot be opened with this key', {
    cause,
    suggestion: 'use the key that was stored when it was sealed',
  });
}

/** What was given for an OpenPGP secret key is none. */
export function notSecretKey(cause: unknown): HpcsError {
  return new HpcsError('usage', 'key-invalid', 'the key is not a valid OpenPGP secret key', {
    cause,
    suggestion: 'give all of the key, as the vault or gpg --export-secret-keys gave it',
  });
}

/** Data that can be checked only at its end, where each piece is to be used as it comes. */
export function isCheckedAtEnd(): HpcsError {
  return new HpcsError(
    'integrity',
    'checked-at-end',
    'the sealed data is OpenPGP of the older kind (SEIPD version 1), which can be checked only at its end',
    { suggestion: 'open it into a directory, or seal it in another format' },
  );
}

/** Not a format, or not a variant of it, that this program opens. */
export function unknownFormat(what: string): HpcsError {
  return new HpcsError('integrity', 'unknown-format', `not sealed data of a known format: ${what}`, {
    suggestion: 'give a file that was sealed as binary age or as OpenPGP with authenticated encryption (SEIPD version 2)',
  });
}

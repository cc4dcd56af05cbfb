import { errors } from 'jose';
import { HpcsError, messageOf } from '../errors.ts';

/**
 * What is wrong with a token, in words that quote nothing of it.
 *
 * @param signer who should have signed it: `this trust domain`
 */
export function tokenFault(error: Error, signer: string): HpcsError {
  const what = ((): string => {
    if (error instanceof errors.JWTExpired) return 'it has expired';
    if (error instanceof errors.JWTClaimValidationFailed)
      return error.claim === 'aud' ? 'it is for another audience' : `its claim ${error.claim} is missing or wrong`;
    if (error instanceof errors.JWKSNoMatchingKey) return `it is not signed by ${signer}`;
    if (error instanceof errors.JWSSignatureVerificationFailed) return 'its signature is wrong';
    if (error instanceof errors.JOSEAlgNotAllowed) return 'its algorithm is not allowed';
    return 'it is malformed';
  })();
  return invalidToken(what, messageOf(error));
}

/** A token that counts for nothing. */
export function invalidToken(what: string, cause?: string): HpcsError {
  return new HpcsError('identity', 'unauthenticated', `the token is not valid: ${what}`, { cause });
}

import { createSecretKey } from 'node:crypto';
import type { SealFormat } from './format.ts';
import type { BodyKey } from './body.ts';
import { newMessageKey } from './seipd.ts';

/**
 * Begins sealed data: what only the recipients' secret keys open, and the key of the rest.
 *
 * @param recipients public keys: `age1…`, or armored OpenPGP certificates. At least one
 * @throws HpcsError `usage` for a recipient that is none
 */
export async function makeHeader(
  format: SealFormat,
  recipients: readonly string[],
): Promise<{ header: Uint8Array; body: BodyKey }> {
  // The packages behind the formats take some 25 MiB each: only the one that is needed is loaded.
  if (format === 'age') {
    const { ageHeader } = await import('./age.ts');
    const { header, key } = await ageHeader(recipients);
    return { header, body: { format, key } };
  }
  const { openpgpHeader } = await import('./openpgp.ts');
  const { header, sessionKey } = await openpgpHeader(recipients, format);
  const body: BodyKey =
    format === 'openpgp' ? { format, key: newMessageKey(sessionKey) } : { format, key: createSecretKey(sessionKey) };
  sessionKey.fill(0);
  return { header, body };
}

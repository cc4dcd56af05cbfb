import { readFile } from 'node:fs/promises';
import { HpcsError, systemCode } from '../errors.ts';
import type { HpcsServer } from '../hpcs.ts';

/** PEM text of the SPIRE server's authorities: from the configured file, else from the HPCS server. @throws HpcsError `usage` */
export async function readTrustBundle(file: string | undefined, server: HpcsServer, signal: AbortSignal): Promise<string> {
  if (file === undefined) {
    const bundle = await server.trustBundle(signal);
    if (bundle !== undefined) return bundle;
    throw new HpcsError('usage', 'trust-bundle-missing', 'the HPCS server does not hand out the trust bundle of SPIRE', {
      suggestion: 'set trust-bundle-file in section [spire-server] (spire-server bundle show prints it)',
    });
  }
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new HpcsError(
      'usage',
      'trust-bundle-unreadable',
      `cannot read the trust-bundle-file ${file}: ${systemCode(error) ?? 'unknown error'}`,
      { cause: error, suggestion: 'correct trust-bundle-file in section [spire-server]' },
    );
  }
}

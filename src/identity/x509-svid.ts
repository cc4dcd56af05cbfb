import { createPrivateKey, X509Certificate } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { HpcsError } from '../errors.ts';
import { parseSpiffeId, type SpiffeId } from './spiffe-id.ts';
import { streamX509Svids } from './workload-api.ts';

/** An identity as TLS takes it, PEM: the certificate with those between it and an authority, and its key. */
export interface X509Svid {
  spiffeId: string;
  cert: string;
  key: string;
}

/** An X.509-SVID with what verifies those of others in its trust domain. */
export interface TrustingSvid extends X509Svid {
  /** PEM. */
  authorities: string;
  expires: Date;
}

/**
 * An X.509-SVID of the calling process as it is now. A fresh entry takes seconds to reach an agent: it is waited for, and so is an agent
 * whose own has expired.
 *
 * @param options.timeout milliseconds
 * @throws HpcsError `identity`: no such identity within the time, or the API cannot be reached
 */
export async function fetchX509Svid(options: { socket: string; spiffeId: string; timeout: number }): Promise<TrustingSvid> {
  const { socket, spiffeId, timeout } = options;
  const end = Date.now() + timeout;
  for (;;) {
    try {
      return await firstX509Svid(socket, spiffeId, AbortSignal.timeout(Math.max(1, end - Date.now())));
    } catch (error) {
      if (!(error instanceof HpcsError && error.code === 'no-identity' && Date.now() + patience < end)) throw error;
      await sleep(patience);
    }
  }
}

async function firstX509Svid(socket: string, spiffeId: string, signal: AbortSignal): Promise<TrustingSvid> {
  let expired = false;
  try {
    for await (const svids of streamX509Svids({ socket, signal })) {
      const mine = svids.find((svid) => svid.spiffeId === spiffeId);
      if (mine === undefined) break;
      const expires = new X509Certificate(mine.x509Svid).validToDate;
      // An agent that could not reach its server hands out what it has, and the next as soon as it has it.
      expired = expires.getTime() <= Date.now();
      if (expired) continue;
      return {
        spiffeId,
        cert: certificates(mine.x509Svid),
        key: privateKey(mine.x509SvidKey),
        authorities: certificates(mine.bundle),
        expires,
      };
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  if (!expired) throw notIssued(spiffeId);
  throw new HpcsError('identity', 'identity-expired', `the SPIRE agent has no ${spiffeId} that is still valid`, {
    suggestion: "look into the agent's log for why it does not reach the SPIRE server, and check the clocks of both",
  });
}

function notIssued(spiffeId: string): HpcsError {
  return new HpcsError('identity', 'no-identity', `the SPIRE agent did not issue ${spiffeId}`, {
    suggestion: `check that its entry has selectors that fit this user and program: spire-server entry show -spiffeID ${spiffeId}`,
  });
}

/** Asked again after this long for an identity that is not there yet, in milliseconds. */
const patience = 500;

/** The Workload API is asked again after this long where it is gone, in milliseconds. */
const pause = 2000;

/**
 * Keeps an X.509-SVID of the calling process: the first, and each that the SPIRE agent renews it with, until aborted. An agent that
 * is away is waited for.
 *
 * @param options.spiffeId which of the identities that the caller has
 * @param options.failed told once for each time that there is none
 */
export async function followX509Svid(options: {
  socket: string;
  spiffeId: string;
  signal: AbortSignal;
  use: (svid: X509Svid) => void;
  failed: (error: unknown) => void;
}): Promise<void> {
  const { socket, spiffeId, signal, use, failed } = options;
  let told = false;
  while (!signal.aborted) {
    try {
      for await (const svids of streamX509Svids({ socket, signal })) {
        const mine = svids.find((svid) => svid.spiffeId === spiffeId);
        if (mine === undefined) throw notIssued(spiffeId);
        use({ spiffeId, cert: certificates(mine.x509Svid), key: privateKey(mine.x509SvidKey) });
        told = false;
      }
    } catch (error) {
      if (!signal.aborted && !told) failed(error);
      told = true;
    }
    await sleep(pause, undefined, { signal, ref: false }).catch(() => undefined);
  }
}

/** PEM of DER certificates that follow one another. @see X.690, 8.1.3 (lengths) */
export function certificates(der: Buffer): string {
  const found: string[] = [];
  for (let at = 0; at < der.length;) {
    const first = der[at + 1] ?? 0;
    const octets = first < 0x80 ? 0 : first & 0x7f;
    const length = octets === 0 ? first : der.readUIntBE(at + 2, octets);
    const end = at + 2 + octets + length;
    const lines =
      der
        .subarray(at, end)
        .toString('base64')
        .match(/.{1,64}/g) ?? [];
    found.push(`-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`);
    at = end;
  }
  return found.join('');
}

function privateKey(der: Buffer): string {
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }).export({ format: 'pem', type: 'pkcs8' }).toString();
}

/**
 * The SPIFFE ID that a certificate is for: the one URI among its alternative names. That the certificate is valid is for the caller
 * to check.
 *
 * @returns undefined for a certificate that is no X.509-SVID of a workload: without a URI, with several, or of an authority
 * @see SPIFFE X.509-SVID, 2 (SPIFFE ID) and 4 (leaf certificates)
 */
export function spiffeIdOf(certificate: X509Certificate): SpiffeId | undefined {
  const names = certificate.subjectAltName ?? '';
  // Node puts names with odd characters in quotes; none of them is a SPIFFE ID.
  if (certificate.ca || names.includes('"')) return undefined;
  const uris = names.split(', ').filter((name) => name.startsWith('URI:'));
  const [uri = ''] = uris;
  if (uris.length !== 1) return undefined;
  try {
    return parseSpiffeId(uri.slice('URI:'.length));
  } catch {
    return undefined;
  }
}

import { HpcsError } from '../errors.ts';

/** A SPIFFE ID in its two parts. `path` starts with a slash, or is empty. @see SPIFFE-ID, 2 */
export interface SpiffeId {
  trustDomain: string;
  path: string;
}

const form = /^spiffe:\/\/([a-z0-9._-]{1,255})((?:\/[A-Za-z0-9._-]+)*)$/;
const clientWorkload = /^\/c\/([0-9a-f]{9})\/workload$/;

/**
 * Reads a SPIFFE ID.
 *
 * @throws HpcsError `identity` for text that is none
 */
export function parseSpiffeId(text: string): SpiffeId {
  const [, trustDomain, path] = form.exec(text) ?? [];
  if (trustDomain === undefined || path === undefined || text.length > 2048 || /\/\.\.?(\/|$)/.test(path)) {
    throw new HpcsError('identity', 'spiffe-id-invalid', `not a SPIFFE ID: ${JSON.stringify(text.slice(0, 200))}`, {
      suggestion: 'write it as spiffe://TRUST-DOMAIN/PATH, the trust domain in lower case',
    });
  }
  return { trustDomain, path };
}

/** The text of a SPIFFE ID. */
export function formatSpiffeId(id: SpiffeId): string {
  return `spiffe://${id.trustDomain}${id.path}`;
}

/** The identities of this system in one trust domain. Arguments must be checked names. */
export const spiffeIds = {
  /** The SPIRE agent of a client. */
  clientAgent: (trustDomain: string, client: string): SpiffeId => ({ trustDomain, path: `/c/${client}` }),
  /** The program that prepares and grants on behalf of a client. */
  clientWorkload: (trustDomain: string, client: string): SpiffeId => ({ trustDomain, path: `/c/${client}/workload` }),
  /** Whoever may read one secret of a client. */
  reader: (trustDomain: string, client: string, secret: string): SpiffeId => ({ trustDomain, path: `/c/${client}/s/${secret}` }),
  /** One job of a client. */
  job: (trustDomain: string, client: string, job: string): SpiffeId => ({ trustDomain, path: `/c/${client}/j/${job}` }),
  /** One reading of a job's records: a job that asks again at the same time is another to the vault. */
  jobReading: (trustDomain: string, client: string, job: string, reading: string): SpiffeId => ({
    trustDomain,
    path: `/c/${client}/j/${job}/${reading}`,
  }),
  /** The SPIRE agent of a compute node. */
  node: (trustDomain: string, hostname: string): SpiffeId => ({ trustDomain, path: `/h/${hostname}` }),
};

/** The client id in a client workload's SPIFFE ID, or undefined where it is another's. */
export function clientOf(id: SpiffeId): string | undefined {
  return clientWorkload.exec(id.path)?.[1];
}

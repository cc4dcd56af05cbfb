import { createHash, randomBytes } from 'node:crypto';
import { calculateJwkThumbprint, EmbeddedJWK, errors, exportJWK, generateKeyPair, jwtVerify, SignJWT, type JWK } from 'jose';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import type { Secret } from '../secret.ts';

/** One HTTP request, as far as a proof covers it. */
export interface ProvenRequest {
  method: string;
  /** Whole URL; a query is not covered, so that calls with a proof have none. */
  url: string;
  /** The body's exact bytes, empty where there is none. */
  body: string | Uint8Array;
  /** The request's own: whatever the proof has to wait for ends with it. */
  signal?: AbortSignal | undefined;
}

/** Makes the headers with which a request shows who sends it. */
export type Prover = (request: ProvenRequest) => Promise<Record<string, string | Secret>>;

/** What a valid proof says. */
export interface Proof {
  /** SHA-256 thumbprint of the key, base64url. @see RFC 7638 */
  thumbprint: string;
  /** Unique in the window: whoever accepts the proof has to remember it that long. */
  id: string;
  /** Seconds since 1970. */
  issuedAt: number;
}

/** Seconds by which the clock of a client may differ from the server's, in either direction. */
export const proofWindow = 120;

const algorithms = ['ES256', 'EdDSA'];
const type = 'dpop+jwt';
const claims = z.object({
  jti: z.string().regex(/^[\x21-\x7e]{16,128}$/),
  htm: z.string(),
  htu: z.url(),
  iat: z.int(),
  body: z.string(),
});

/** Makes a new key pair (P-256), in memory only. @returns the private key as JWK */
export async function generateProofKey(): Promise<JWK> {
  const { privateKey } = await generateKeyPair('ES256', { extractable: true });
  return exportJWK(privateKey);
}

/** SHA-256 thumbprint of a key, base64url: the same for both its halves. @see RFC 7638 */
export function thumbprintOf(key: JWK): Promise<string> {
  return calculateJwkThumbprint(key);
}

/**
 * A prover that signs each request with a key: method, URL, time, a unique id, and the SHA-256 of the body.
 *
 * @param key private JWK on P-256
 * @see RFC 9449 (DPoP), 4.2; the claim `body` is ours: base64url of the SHA-256 of the body
 */
export function keyProver(key: JWK): Prover {
  const { kty, crv, x, y } = key;
  return async ({ method, url, body }) => {
    const proof = await new SignJWT({ htm: method, htu: covered(new URL(url)), body: digest(body) })
      .setProtectedHeader({ alg: 'ES256', typ: type, jwk: { kty, crv, x, y } as JWK })
      .setJti(randomBytes(16).toString('base64url'))
      .setIssuedAt()
      .sign(key);
    return { dpop: proof };
  };
}

/**
 * Verifies a proof against the request it came with.
 *
 * @param isOwn whether a URL (without query) is one under which this server is reached: else another server that a client trusts
 * could hand its proofs on
 * @param now seconds since 1970
 * @throws HpcsError `unauthenticated` saying what is wrong
 * @see RFC 9449, 4.3
 */
export async function verifyProof(
  proof: string,
  request: { method: string; path: string; body: string | Uint8Array },
  isOwn: (url: URL) => boolean,
  now: number = Date.now() / 1000,
): Promise<Proof> {
  const { payload, protectedHeader } = await verified(proof);
  const parsed = claims.safeParse(payload);
  if (!parsed.success) throw refused(`its claim ${parsed.error.issues[0]?.path.join('.')} is missing or wrong`);
  const { jti, htm, htu, iat, body } = parsed.data;
  const url = new URL(htu);
  if (htm !== request.method) throw refused('it is for another method');
  if (url.pathname !== request.path || url.search !== '' || url.hash !== '') throw refused('it is for another call');
  if (!isOwn(url)) throw refused(`it is for another server, ${url.origin}`);
  if (body !== digest(request.body)) throw refused('it is for another body');
  const late = Math.round(now - iat);
  if (Math.abs(late) > proofWindow) {
    throw refused(late > 0 ? `it is ${late} s old` : `it was made ${-late} s from now: check the clocks`);
  }
  return { thumbprint: await thumbprintOf(protectedHeader.jwk as JWK), id: jti, issuedAt: iat };
}

async function verified(proof: string): ReturnType<typeof jwtVerify> {
  if (proof.length > 4096) throw refused('it is too long');
  try {
    // The key comes with the proof: what it is worth, the server's register of keys says.
    return await jwtVerify(proof, EmbeddedJWK, { algorithms, typ: type });
  } catch (error) {
    if (error instanceof errors.JWSSignatureVerificationFailed) throw refused('its signature is wrong');
    if (error instanceof errors.JOSEAlgNotAllowed) throw refused('its algorithm is not allowed');
    // Others come from the key within: WebCrypto's own errors among them.
    throw refused('it is malformed');
  }
}

function covered(url: URL): string {
  return url.origin + url.pathname;
}

function digest(body: string | Uint8Array): string {
  return createHash('sha256').update(body).digest('base64url');
}

function refused(what: string): HpcsError {
  return new HpcsError('identity', 'unauthenticated', `the proof of possession is not valid: ${what}`);
}

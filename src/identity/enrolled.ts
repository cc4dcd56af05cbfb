import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { JWK } from 'jose';
import { z } from 'zod';
import { HpcsError, systemCode } from '../errors.ts';
import type { HpcsServer } from '../hpcs.ts';
import type { Secret } from '../secret.ts';
import { writeDurably } from '../state.ts';
import { generateProofKey, keyProver } from './proof.ts';

const schema = z.object({
  version: z.literal(1),
  /** URL of the HPCS server, for people. */
  server: z.string(),
  trustDomain: z.string(),
  clientId: z.string().regex(/^[0-9a-f]{9}$/),
  spiffeId: z.string(),
  name: z.string(),
  /** RFC 3339 time after which the key counts no more: it came with a login. */
  expires: z.iso.datetime().optional(),
  /** Private key. */
  key: z.object({ kty: z.string(), crv: z.string(), x: z.string(), y: z.string(), d: z.string() }),
});

/** What this client was enrolled or logged in as, with its key: a file of mode 0600. */
export type Enrolled = z.output<typeof schema>;

/** Where the key of an enrolled client lies, where the configuration names no other place. */
export function enrolledFile(stateDirectory: string): string {
  return join(stateDirectory, 'client-key.json');
}

/** The record of a key, checked. @throws ZodError */
export function parseEnrolled(value: unknown): Enrolled {
  return schema.parse(value);
}

/**
 * Reads what this client was enrolled as.
 *
 * @returns undefined where there is no such file
 * @throws HpcsError `local` when it cannot be read
 */
export async function readEnrolled(file: string): Promise<Enrolled | undefined> {
  let content: string;
  try {
    content = await readFile(file, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw unreadable(file, systemCode(error) ?? 'unknown error');
  }
  try {
    return schema.parse(JSON.parse(content));
  } catch {
    // The parser's message would quote the key.
    throw unreadable(file, 'it is damaged, or of another version');
  }
}

/**
 * Makes a key, enrols it at the HPCS server, and keeps it.
 *
 * The key is on disk before the server knows it: an answer that is lost costs a repetition, not the token.
 *
 * @param token the one-time token; the server's administrators make it
 * @param file where the key is kept; one that is there, of whatever client, is not replaced
 * @throws HpcsError `usage` `enrolled-already`, `identity` when the server refuses
 */
export async function enrol(
  server: HpcsServer,
  token: Secret,
  options: { file: string; url: string; signal?: AbortSignal | undefined },
): Promise<Enrolled> {
  const { file, url, signal } = options;
  const known = await readEnrolled(file);
  if (known !== undefined) {
    throw new HpcsError('usage', 'enrolled-already', `${file} holds the key of ${known.name} at ${known.server}`, {
      suggestion: 'move it away, or name another place as key-file in section [identity]',
    });
  }
  const pending = `${file}.new`;
  let key = await pendingKey(pending);
  const enrolIt = (): ReturnType<HpcsServer['enrol']> => server.enrol(token, keyProver(key), signal);
  const made = await enrolIt().catch(async (error: unknown) => {
    if (!(error instanceof HpcsError && error.code === 'hpcs-key-ended')) throw error;
    // It was enrolled, but for the answer that was lost, and revoked since: nobody needs it any more.
    await rm(pending, { force: true });
    key = await pendingKey(pending);
    return enrolIt();
  });
  const enrolled = schema.parse({ version: 1, server: url, ...made, key });
  await writeDurably(file, JSON.stringify(enrolled));
  await rm(pending, { force: true });
  return enrolled;
}

// A key whose enrolment was begun is used again: the server takes the token from no other one.
async function pendingKey(file: string): Promise<JWK> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as JWK;
  } catch {
    const key = await generateProofKey();
    await writeDurably(file, JSON.stringify(key));
    return key;
  }
}

function unreadable(file: string, why: string): HpcsError {
  return new HpcsError('local', 'key-unreadable', `cannot read the key of this client, ${file}: ${why}`, {
    suggestion: 'make it readable, or move it away and enrol again',
  });
}

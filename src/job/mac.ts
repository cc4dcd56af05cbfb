import { createHmac } from 'node:crypto';
import { HpcsError } from '../errors.ts';
import type { Secret } from '../secret.ts';

/**
 * HMAC-SHA256 under a job's authentication key.
 *
 * @param key 32 bytes in hex
 * @param label what the code is of, so that one of a kind is never one of another
 * @see RFC 2104
 */
export function jobMac(key: Secret, label: string, content: string): Buffer {
  const bytes = Buffer.from(key.reveal(), 'hex');
  // What is no hex would be an empty key, with which anybody can make a code.
  if (bytes.length !== 32) throw new HpcsError('bug', 'bug', 'the authentication key of the job does not have 32 bytes');
  return createHmac('sha256', bytes).update(label).update(content).digest();
}

import { createHash, randomBytes } from 'node:crypto';
import { Secret } from '../secret.ts';

/**
 * What a job shows to get its keys, in two halves of 128 bits: one travels in the batch script, which Slurm keeps, the other lies
 * in a file of the submitter's alone. Neither place is enough.
 */
export interface Ticket {
  /** Half in the script: 32 hex characters. */
  scriptHalf: Secret;
  /** Half in the file: 32 hex characters. */
  fileHalf: Secret;
}

/** Form of one half. */
export const ticketHalf = /^[0-9a-f]{32}$/;

/** A new ticket. */
export function makeTicket(): Ticket {
  return { scriptHalf: half(), fileHalf: half() };
}

/** What the server knows of a ticket: SHA-256, hex. It tells nothing of the halves. */
export function ticketHash({ scriptHalf, fileHalf }: Ticket): string {
  return createHash('sha256').update('hpcs job ticket 1\n').update(scriptHalf.bytes()).update(fileHalf.bytes()).digest('hex');
}

function half(): Secret {
  return new Secret(randomBytes(16).toString('hex'));
}

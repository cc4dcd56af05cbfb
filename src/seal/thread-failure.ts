import { HpcsError, messageOf, type ErrorKind } from '../errors.ts';
import { RingFailed } from './ring.ts';

/** An error as it crosses from thread to thread. */
export interface ThreadFailure {
  kind: ErrorKind;
  code: string;
  message: string;
  suggestion: string | undefined;
}

/** What a thread says at last that an error ended. Of a ring that failed, whoever made it fail tells why. */
export function endedBy(error: unknown): { failure: ThreadFailure } | { ringFailed: true } {
  return error instanceof RingFailed ? { ringFailed: true } : { failure: failureOf(error) };
}

function failureOf(error: unknown): ThreadFailure {
  if (error instanceof HpcsError)
    return { kind: error.kind, code: error.code, message: error.message, suggestion: error.suggestion };
  return { kind: 'bug', code: 'bug', message: messageOf(error), suggestion: undefined };
}

/** What is said of a thread that did not tell how it ended. */
export function threadDied(name: string, how: string, cause?: unknown): HpcsError {
  return new HpcsError('local', 'thread-died', `a thread of this program died (${name}): ${how}`, {
    cause,
    suggestion: 'check that memory is left on this machine, and run the command again',
  });
}

import { HpcsError, messageOf } from '../errors.ts';
import type { ThreadFailure } from './threads.ts';

/** An error in the form in which it can be told to another thread. */
export function failureOf(error: unknown): ThreadFailure {
  if (error instanceof HpcsError)
    return { kind: error.kind, code: error.code, message: error.message, suggestion: error.suggestion };
  return { kind: 'bug', code: 'bug', message: messageOf(error), suggestion: undefined };
}

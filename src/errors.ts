/**
 * The one error type of the program and its table of exit codes.
 *
 * Foreign errors (dockerode, ssh2, undici, gRPC, zod) are translated into an {@link HpcsError} once, at the edge that called
 * the foreign code; everything above that edge only reads `kind`, `code` and `message`.
 */

/** What went wrong, in the coarse classes that a calling script can tell apart by the exit code. */
export type ErrorKind = 'bug' | 'usage' | 'local' | 'identity' | 'site' | 'job' | 'integrity' | 'interrupted';

/** Exit code of each kind: 2 usage or configuration, 3 this machine, 4 identities and APIs, 5 SSH and site, 6 scheduler or job, 7 integrity. */
export const exitCodes: Readonly<Record<ErrorKind, number>> = {
  bug: 1,
  usage: 2,
  local: 3,
  identity: 4,
  site: 5,
  job: 6,
  integrity: 7,
  interrupted: 130,
};

/** Optional parts of an {@link HpcsError}. */
export interface ErrorDetails {
  /** What to do next: a command, a flag or a configuration key. One line. */
  suggestion?: string;
  /** The foreign error below. Shown with `DEBUG=hpcs`, and of a bug always; must not hold secrets. */
  cause?: unknown;
  /** Exit code, where it is not that of the kind (an application's own). */
  exitCode?: number;
  /** What was done or found all the same, as plain JSON: shown with `--json`. */
  result?: unknown;
}

/** An error with a stable code, a lower-case fact that names the object, and the next step. */
export class HpcsError extends Error {
  override readonly name = 'HpcsError';
  readonly kind: ErrorKind;
  /** Stable word for scripts, for example `host-key-unknown`. */
  readonly code: string;
  readonly suggestion: string | undefined;
  readonly exitCode: number;
  /** Set, too, by who knows more of it than where it was thrown. */
  result: unknown;

  constructor(kind: ErrorKind, code: string, message: string, details: ErrorDetails = {}) {
    super(message, { cause: details.cause });
    this.kind = kind;
    this.code = code;
    this.suggestion = details.suggestion;
    this.exitCode = details.exitCode ?? exitCodes[kind];
    this.result = details.result;
  }

  /** The result that `--json` prints instead of a command's own. */
  toJSON(): Record<string, unknown> {
    const { code, kind, message, suggestion, result } = this;
    return { error: { code, kind, message, suggestion }, result };
  }
}

/** The message of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The `code` of a Node system error (`ENOENT`, …), or undefined. */
export function systemCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** What went wrong first: without the errors of cleaning up after it, which `using` puts on top. */
export function firstError(error: unknown): unknown {
  return error instanceof SuppressedError ? firstError(error.suppressed) : error;
}

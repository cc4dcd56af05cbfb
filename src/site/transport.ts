/** A command running on the site. Disposing of it ends the command, if it still runs. */
export interface RemoteProcess extends AsyncDisposable {
  /**
   * Standard output as it comes. Must be read (or the process disposed of) for `finished` to settle. Leaving the loop early
   * ends the command; a connection that breaks makes it throw as `finished` does.
   */
  stdout: AsyncIterable<Uint8Array>;
  /** Settles when the command ended and its output was read. Rejects with an HpcsError `site` when the connection breaks. */
  finished: Promise<RemoteExit>;
}

/** How a remote command ended. */
export interface RemoteExit {
  /** Exit code, or null when a signal ended it. */
  code: number | null;
  /** The last 64 KiB of standard error. */
  stderr: string;
}

/** Options of {@link Transport.exec}. */
export interface ExecOptions {
  /** Bytes for standard input, which is closed after them. Read no faster than the site takes them. */
  input?: AsyncIterable<Uint8Array> | Iterable<Uint8Array> | undefined;
  /** How many bytes of the input are to be under way at once, at most, once that is known; a transport that cannot see to it has more. */
  underWay?: Promise<number> | undefined;
  /** Ends the remote command and rejects `finished` with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/**
 * A connection to the site's login node that can run commands; all else (files, Slurm) is built upon it.
 *
 * Two implement it: one over the ssh2 package, one over the system's own `ssh` program.
 */
export interface Transport extends AsyncDisposable {
  /**
   * Runs POSIX shell text with `/bin/sh`, whatever the account's login shell is. The text travels on standard input, so that
   * neither its length nor its values show in the site's process list.
   */
  exec(script: string, options?: ExecOptions): RemoteProcess;
}

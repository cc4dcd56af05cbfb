import { HpcsError, systemCode } from '../errors.ts';

/** The words in which both transports report the same troubles: codes are stable, each says the next step. */

/** No host of that name. */
export function hostNotFound(host: string, cause?: unknown): HpcsError {
  return new HpcsError('site', 'ssh-host-not-found', `no host named ${host} was found`, {
    cause,
    suggestion: 'check address in section [supercomputer]',
  });
}

/** The host does not answer on that port. `why` is the system's word for it. */
export function unreachable(place: string, why: string, cause?: unknown): HpcsError {
  return new HpcsError('site', 'ssh-unreachable', `cannot reach ${place} over SSH: ${why}`, {
    cause,
    suggestion: 'check address and port in section [supercomputer], and that the network lets SSH through',
  });
}

/** The time for connecting ran out. */
export function connectTimeout(place: string, seconds: number, cause?: unknown): HpcsError {
  return new HpcsError('site', 'ssh-timeout', `${place} did not answer within ${seconds} s`, {
    cause,
    suggestion: 'check address and port in section [supercomputer], and that the network lets SSH through',
  });
}

/** The site accepts none of the keys. `tried` lists them for people. */
export function authenticationFailed(username: string, host: string, tried: readonly string[], cause?: unknown): HpcsError {
  const keys = tried.length > 0 ? ` (tried ${tried.join(', ')})` : ' (no key was found to try)';
  return new HpcsError('site', 'ssh-authentication-failed', `${host} does not let ${username} in${keys}`, {
    cause,
    suggestion:
      'name a key the site knows as identity-file in section [supercomputer], or add one to an ssh-agent; certificates, security keys and second factors need transport = openssh',
  });
}

/** The only key that could help is protected by a passphrase. */
export function keyEncrypted(file: string): HpcsError {
  return new HpcsError('site', 'ssh-key-encrypted', `the key ${file} is protected by a passphrase, which is not asked for here`, {
    suggestion: `add it to an ssh-agent and let SSH_AUTH_SOCK name that: eval "$(ssh-agent)"; ssh-add ${file}`,
  });
}

/** Nothing is known of the host's key. */
export function hostKeyUnknown(host: string, port: number, type: string, offered: string, files: readonly string[]): HpcsError {
  const looked = files.length > 0 ? ` in ${files.join(', ')}` : '';
  return new HpcsError(
    'site',
    'host-key-unknown',
    `the host key of ${named(host, port)} is not known${looked}; it shows ${type} ${offered}`,
    { suggestion: `compare that with what the site publishes, then pin it: ${pinning(host, port, offered)}` },
  );
}

/** Another key is known for the host. */
export function hostKeyChanged(host: string, port: number, type: string, offered: string, known: string): HpcsError {
  return new HpcsError(
    'site',
    'host-key-changed',
    `THE HOST KEY OF ${named(host, port)} HAS CHANGED: it shows ${type} ${offered}, but ${known}; somebody may be in between`,
    { suggestion: 'do not connect: ask the site whether its key changed, and only then replace the old one' },
  );
}

/** The host shows a key that was declared stolen. */
export function hostKeyRevoked(host: string, port: number, type: string, offered: string): HpcsError {
  return new HpcsError('site', 'host-key-revoked', `the host key of ${named(host, port)} is revoked: ${type} ${offered}`, {
    suggestion: 'do not connect: ask the site for its current key',
  });
}

/** Both ends share no algorithm, or the answer was not SSH. */
export function handshakeFailed(place: string, why: string, cause?: unknown): HpcsError {
  return new HpcsError('site', 'ssh-handshake-failed', `cannot agree on an SSH connection with ${place}: ${why}`, {
    cause,
    suggestion: 'check that an SSH server answers there; transport = openssh may know more algorithms',
  });
}

/** The connection was there and is no more. */
export function connectionLost(host: string, why: string | undefined, cause?: unknown): HpcsError {
  return new HpcsError('site', 'connection-lost', `the connection to ${host} broke${why ? `: ${why}` : ''}`, {
    cause,
    suggestion: 'run the command again; jobs already submitted go on',
  });
}

/** The account may log in, but no shell of it runs commands. `output` is what it said instead. */
export function noRemoteShell(code: number | null, output: string): HpcsError {
  const said = output.trim().split('\n')[0]?.slice(0, 200);
  const why = said ? `: ${said}` : code === null ? '' : ` (exit code ${code})`;
  return new HpcsError('site', 'no-remote-shell', `the site runs no command for this account${why}`, {
    suggestion: 'check that the account may log in there and run commands: ssh HOST true',
  });
}

/** The site's limit of sessions on one connection. */
export function sessionRefused(host: string, cause?: unknown): HpcsError {
  return new HpcsError('site', 'session-refused', `${host} opens no further session on this connection`, {
    cause,
    suggestion: 'try again; the site may limit sessions (MaxSessions of sshd)',
  });
}

/** Whether a connection was cut, or cannot be made for now: what trying again may mend. A network that is away resolves no names either. */
export function isCut(error: unknown): boolean {
  const codes = ['connection-lost', 'ssh-unreachable', 'ssh-timeout', 'ssh-host-not-found', 'ssh-handshake-failed'];
  return error instanceof HpcsError && codes.includes(error.code);
}

/** Plain words for a socket error's code. */
export function reasonOf(error: unknown): string {
  const code = systemCode(error);
  const words: Record<string, string> = {
    ECONNREFUSED: 'connection refused',
    ECONNRESET: 'connection reset',
    EHOSTUNREACH: 'no route to the host',
    ENETUNREACH: 'no route to the network',
    ETIMEDOUT: 'timed out',
    EPIPE: 'connection closed',
  };
  return (code === undefined ? undefined : words[code]) ?? code ?? (error instanceof Error ? error.message : String(error));
}

/** `host` or `host port 2222`. */
export function named(host: string, port: number): string {
  return port === 22 ? host : `${host} port ${port}`;
}

function pinning(host: string, port: number, offered: string): string {
  const scan = port === 22 ? `ssh-keyscan ${host}` : `ssh-keyscan -p ${port} ${host}`;
  return `host-key-fingerprint = ${offered} in section [supercomputer], or ${scan} >> ~/.ssh/known_hosts`;
}

import { constants, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import { createSecureContext, TLSSocket, type SecureContextOptions, type Server } from 'node:tls';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import { clientOf, formatSpiffeId } from '../identity/spiffe-id.ts';
import { followX509Svid, spiffeIdOf } from '../identity/x509-svid.ts';
import { timeouts } from './limits.ts';

/** A certificate chain and its key, PEM. */
export interface Credentials {
  cert: string;
  key: string;
}

/** What {@link ServerTls} needs. */
export interface ServerTlsOptions {
  trustDomain: string;
  /** PEM text of SPIRE's authorities: whose X.509-SVIDs are believed. */
  authorities: () => Promise<string>;
  /** Told what changed, and what failed to. */
  log: (level: 'info' | 'warn', message: string, details?: Record<string, string>) => void;
  /** Told when the certificate ends. */
  expires?: (time: Date) => void;
}

/** How often SPIRE's authorities are read anew, in milliseconds: what it withdrew is not trusted for longer. */
const reading = 30_000;
/** The same while they cannot be read. */
const retrying = 2000;

/**
 * TLS of the server: its own certificate, which may change while it serves, and the X.509-SVIDs that clients may show. A client that
 * shows none is served too: most prove who they are in another way.
 *
 * @see SPIFFE X.509-SVID, 5 (validation)
 */
export class ServerTls implements Disposable {
  readonly #options: ServerTlsOptions;
  #credentials: Credentials | undefined;
  #authorities: string[] = [];
  /** Counts withdrawals of authorities: connections from before one prove nothing any more. */
  #generation = 0;
  readonly #shown = new WeakMap<Duplex, number>();
  #server: Server | undefined;
  #timer: NodeJS.Timeout | undefined;
  #begin: (() => void) | undefined;
  readonly #ends = new DisposableStack();

  constructor(options: ServerTlsOptions, credentials?: Credentials) {
    this.#options = options;
    if (credentials !== undefined) this.use(credentials);
  }

  /** What a TLS server is made with. No session is resumed: each connection shows its certificate, which is checked anew. */
  get serverOptions(): SecureContextOptions & { requestCert: true; rejectUnauthorized: false; handshakeTimeout: number } {
    return { ...this.#context(), requestCert: true, rejectUnauthorized: false, handshakeTimeout: timeouts.handshake };
  }

  /** Keeps a server's certificate and authorities up to date from now on. */
  attach(server: Server): void {
    this.#server = server;
    server.on('secureConnection', (socket) => this.#shown.set(socket, this.#generation));
    const round = async (): Promise<void> => {
      const pause = await this.#readAuthorities();
      if (this.#server !== undefined) this.#timer = setTimeout(() => void round(), pause).unref();
    };
    void round();
    this.#begin?.();
  }

  /** Has something begin when there is a server to tell of it. */
  whenAttached(begin: () => void): void {
    this.#begin = begin;
  }

  /**
   * Uses another certificate for new connections; those that are open stay.
   *
   * @throws HpcsError `usage` where certificate and key do not fit; what was in use stays then
   */
  use(credentials: Credentials): void {
    let certificate: X509Certificate;
    try {
      createSecureContext(credentials);
      certificate = new X509Certificate(credentials.cert);
    } catch (error) {
      throw new HpcsError('usage', 'tls-file-invalid', 'certificate and key of this server do not fit, or are none', {
        cause: error,
        suggestion: 'correct cert-file and key-file in section [tls]',
      });
    }
    this.#credentials = credentials;
    this.#apply();
    this.#options.expires?.(new Date(certificate.validTo));
    if (this.#server === undefined) return;
    this.#options.log('info', 'certificate in use', { serial: certificate.serialNumber, expires: certificate.validTo });
  }

  /** Whether a URL is one under which this server's certificate is valid. */
  isOwn({ protocol, hostname }: URL): boolean {
    if (this.#credentials === undefined) return false;
    const own = new X509Certificate(this.#credentials.cert);
    const host = hostname.replace(/^\[(.*)\]$/, '$1');
    return protocol === 'https:' && (isIP(host) === 0 ? own.checkHost(host) : own.checkIP(host)) !== undefined;
  }

  /**
   * The client whose X.509-SVID a connection was made with.
   *
   * @returns undefined where it showed no certificate
   * @throws HpcsError `identity` with code `unauthenticated` for one that is not valid, `forbidden` for one of somebody else
   */
  client(socket: Duplex): string | undefined {
    if (!(socket instanceof TLSSocket)) return undefined;
    const certificate = socket.getPeerX509Certificate();
    if (certificate === undefined) return undefined;
    if (!socket.authorized) throw unauthenticated(reasonOf(socket.authorizationError));
    if (this.#shown.get(socket) !== this.#generation) throw unauthenticated('its authority changed: connect again');
    if (new Date(certificate.validTo) <= new Date()) throw unauthenticated('it has expired');
    const id = spiffeIdOf(certificate);
    if (id === undefined) throw unauthenticated('it names not exactly one SPIFFE ID');
    const client = clientOf(id);
    if (client !== undefined && id.trustDomain === this.#options.trustDomain) return client;
    throw new HpcsError(
      'identity',
      'forbidden',
      `the certificate is that of ${formatSpiffeId(id)}, which is no client's workload of ${this.#options.trustDomain}`,
    );
  }

  /** Has something end with this. */
  defer(end: () => void): void {
    this.#ends.defer(end);
  }

  [Symbol.dispose](): void {
    this.#server = undefined;
    clearTimeout(this.#timer);
    this.#ends.dispose();
  }

  async #readAuthorities(): Promise<number> {
    let found: string[];
    try {
      found = (await this.#options.authorities()).match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----\n?/g) ?? [];
    } catch {
      return retrying;
    }
    const known = this.#authorities;
    if (known.length === found.length && known.every((one) => found.includes(one))) return reading;
    if (!known.every((one) => found.includes(one))) this.#generation += 1;
    this.#authorities = found;
    this.#apply();
    this.#options.log('info', 'authorities of X.509-SVIDs in use', { count: String(found.length) });
    return reading;
  }

  #apply(): void {
    this.#server?.setSecureContext(this.#context());
  }

  #context(): SecureContextOptions {
    return {
      ...this.#credentials,
      // Without any, none: an absent list would mean the authorities of the web.
      ca: this.#authorities,
      allowPartialTrustChain: true,
      minVersion: 'TLSv1.2',
      secureOptions: constants.SSL_OP_NO_TICKET,
    };
  }
}

/** How often the files of a certificate are looked at, in milliseconds. */
const watching = 5000;

/** Reads a certificate and its key. @throws HpcsError `usage` */
async function readCredentials(files: { cert: string; key: string }): Promise<Credentials> {
  return { cert: await readPem(files.cert), key: await readPem(files.key) };
}

/**
 * Has a server use what its certificate's files hold when they change. Files that do not fit, as while they are being exchanged, are
 * passed over until they do.
 *
 * @param interval milliseconds
 */
export function watchCredentials(
  files: { cert: string; key: string },
  tls: Pick<ServerTls, 'use'>,
  first: Credentials,
  log: ServerTlsOptions['log'],
  interval = watching,
): Disposable {
  let known = first;
  let failure = '';
  let ended = false;
  const look = async (): Promise<void> => {
    try {
      const found = await readCredentials(files);
      if (ended || (found.cert === known.cert && found.key === known.key)) return;
      tls.use(found);
      known = found;
      failure = '';
    } catch (error) {
      // Once: it will be looked at again soon, and again.
      if (messageOf(error) !== failure) log('warn', 'the new certificate is not used', { reason: messageOf(error) });
      failure = messageOf(error);
    }
  };
  let timer: NodeJS.Timeout;
  const again = (): void => {
    timer = setTimeout(() => void look().finally(() => ended || again()), interval).unref();
  };
  again();
  return {
    [Symbol.dispose]: () => {
      ended = true;
      clearTimeout(timer);
    },
  };
}

/** The certificate that section [tls] names, and what {@link openTls} needs beside. */
export interface TlsSource extends ServerTlsOptions {
  /** Address of the Workload API that gives this server its X.509-SVID. */
  socket: string;
  /** This server's own SPIFFE ID. */
  spiffeId: string;
}

/**
 * TLS as configured: with the certificate in files, which are watched, or with this server's X.509-SVID, which the SPIRE agent
 * renews. Until the agent gives one, handshakes fail.
 *
 * @throws HpcsError `usage` for files that cannot be read or do not fit
 */
export async function openTls(
  config: { 'cert-file'?: string | undefined; 'key-file'?: string | undefined },
  source: TlsSource,
): Promise<ServerTls> {
  const { 'cert-file': cert, 'key-file': key } = config;
  if (cert === undefined || key === undefined) {
    const tls = new ServerTls(source);
    const ending = new AbortController();
    tls.defer(() => ending.abort());
    tls.whenAttached(() => {
      void followX509Svid({
        socket: source.socket,
        spiffeId: source.spiffeId,
        signal: ending.signal,
        use: (svid) => tls.use(svid),
        failed: (error) => source.log('warn', 'no X.509-SVID of this server at present', { reason: messageOf(error) }),
      });
    });
    return tls;
  }
  const files = { cert, key };
  const first = await readCredentials(files);
  const tls = new ServerTls(source, first);
  const watch = watchCredentials(files, tls, first, source.log);
  tls.defer(() => watch[Symbol.dispose]());
  return tls;
}

async function readPem(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new HpcsError('usage', 'tls-file-unreadable', `cannot read ${file}: ${systemCode(error) ?? 'unknown error'}`, {
      cause: error,
      suggestion: 'correct section [tls]',
    });
  }
}

// What OpenSSL says, by the names that Node gives it.
function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
  if (code === 'CERT_HAS_EXPIRED') return 'it has expired';
  if (code === 'CERT_NOT_YET_VALID') return 'it is not valid yet';
  if (code === 'INVALID_PURPOSE') return 'it is not one of a client';
  return `it is not issued by this trust domain (${code})`;
}

function unauthenticated(what: string): HpcsError {
  return new HpcsError('identity', 'unauthenticated', `the certificate of the caller is not valid: ${what}`);
}

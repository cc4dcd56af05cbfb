import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Agent, EnvHttpProxyAgent, request, type Dispatcher } from 'undici';
import { HpcsError, systemCode } from './errors.ts';
import { linesOf } from './lines.ts';
import { Secret } from './secret.ts';

/** In bytes. Answers are small records; anything longer is not one of ours. */
const longestAnswer = 4 * 1024 * 1024;
/** Lists name what many clients, or one that means ill, have left: over a million names of 64 characters. */
const longestList = 16 * longestAnswer;

/** How to reach one HTTP service. */
export interface HttpOptions {
  /** What the service is called in messages: `vault`, `HPCS server`. */
  name: string;
  /** Base URL without a final slash. */
  url: string;
  /** PEM text of the authorities to trust instead of the system's. */
  ca?: string | undefined;
  /** Allow `http://`, on which every token can be read by the network. */
  allowInsecureHttp?: boolean | undefined;
  /** Longest time for one request, or between two reports of progress, in milliseconds. */
  timeout?: number;
  /** Sent with every request. */
  headers?: Readonly<Record<string, string>>;
}

/** One request. */
export interface HttpRequest {
  body?: unknown;
  headers?: Record<string, string | Secret>;
  /** Makes more headers from the request as it is sent: a proof of who sends it. */
  prove?:
    | ((request: {
        method: string;
        url: string;
        body: string;
        signal: AbortSignal | undefined;
      }) => Promise<Record<string, string | Secret>>)
    | undefined;
  signal?: AbortSignal | undefined;
  /** Asks the service to tell how far it is, one JSON object a line before its answer. Services that cannot just answer. */
  onProgress?: ((done: number, total: number) => void) | undefined;
}

/** Status and parsed JSON body (undefined where there is none). */
export interface HttpAnswer {
  status: number;
  body: unknown;
}

/**
 * Connections that trust these authorities, through the proxy that the environment names where it does.
 *
 * @param ca PEM text of the authorities to trust instead of the system's
 */
export function makeDispatcher(ca: string | undefined): Agent | EnvHttpProxyAgent {
  const tls = ca === undefined ? {} : { ca };
  return proxied() ? new EnvHttpProxyAgent({ connect: tls, requestTls: tls }) : new Agent({ connect: tls });
}

/** A JSON client for one service: fixed authorities, no redirects, a time limit, bounded answers. */
export class HttpClient implements AsyncDisposable {
  readonly name: string;
  readonly url: string;
  readonly #dispatcher: Dispatcher;
  readonly #timeout: number;
  readonly #headers: Readonly<Record<string, string>>;

  /** @throws HpcsError `usage` for `http://` without `allowInsecureHttp` */
  constructor(options: HttpOptions) {
    if (new URL(options.url).protocol !== 'https:' && options.allowInsecureHttp !== true) {
      throw new HpcsError('usage', 'insecure-http', `the URL of the ${options.name} is not https: ${options.url}`, {
        suggestion:
          'use https:// (with ca-file for an authority of your own), or allow-insecure-http in the configuration where nobody else is on the network',
      });
    }
    this.name = options.name;
    this.url = options.url;
    this.#timeout = options.timeout ?? 30_000;
    this.#headers = options.headers ?? {};
    this.#dispatcher = makeDispatcher(options.ca);
  }

  /**
   * Sends one request and reads its JSON answer, whatever its status.
   *
   * @throws HpcsError `identity` when the service cannot be reached, is not trusted or does not answer with JSON
   */
  async json(method: 'GET' | 'POST' | 'PUT' | 'DELETE' | 'LIST', path: string, options: HttpRequest = {}): Promise<HttpAnswer> {
    const headers: Record<string, string> = {
      accept: options.onProgress === undefined ? 'application/json' : `${linesType}, application/json`,
      ...this.#headers,
    };
    const body = options.body === undefined ? null : JSON.stringify(options.body);
    const proof = await options.prove?.({ method, url: this.url + path, body: body ?? '', signal: options.signal });
    for (const [name, value] of Object.entries({ ...options.headers, ...proof }))
      headers[name] = value instanceof Secret ? value.reveal() : value;
    if (body !== null) headers['content-type'] = 'application/json';
    using limit = new TimeLimit(this.#timeout);
    const longest = method === 'LIST' ? longestList : longestAnswer;
    let answer: Dispatcher.ResponseData;
    let content: string | undefined;
    try {
      answer = await request(this.url + path, {
        method: method as Dispatcher.HttpMethod,
        headers,
        body,
        dispatcher: this.#dispatcher,
        signal: options.signal === undefined ? limit.signal : AbortSignal.any([options.signal, limit.signal]),
      });
      if (answer.headers['content-type']?.includes(linesType) === true) {
        return await readLines(answer.body, (done, total) => {
          limit.renew();
          options.onProgress?.(done, total);
        });
      }
      content = await readLimited(answer.body, longest);
    } catch (error) {
      options.signal?.throwIfAborted();
      if (error instanceof SyntaxError) throw this.#badAnswer('lines of which one is not JSON');
      throw this.#unreachable(error);
    }
    if (content === undefined) throw this.#badAnswer(`${answer.statusCode} with more than ${longest} bytes`);
    if (content === '') return { status: answer.statusCode, body: undefined };
    try {
      return { status: answer.statusCode, body: JSON.parse(content) as unknown };
    } catch {
      // Pages of proxies, and of the original for paths that it does not know.
      if (answer.statusCode === 404) return { status: 404, body: undefined };
      if (answer.statusCode >= 500) throw this.#unavailable(answer.statusCode);
      throw this.#badAnswer(`${answer.statusCode} with something that is not JSON`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#dispatcher.destroy();
  }

  #badAnswer(what: string): HpcsError {
    return new HpcsError('identity', 'bad-answer', `the ${this.name} at ${this.url} answered ${what}`, {
      suggestion: `check that the URL is that of the ${this.name} and not of a proxy or a web page`,
    });
  }

  #unavailable(status: number): HpcsError {
    return new HpcsError('identity', 'unreachable', `the ${this.name} at ${this.url} is not there at present (${status})`, {
      suggestion: 'try again; whatever stands before it says that it does not answer',
    });
  }

  #unreachable(error: unknown): HpcsError {
    const code = systemCode(error) ?? (error instanceof Error ? error.name : 'unknown error');
    const where = `the ${this.name} at ${this.url}`;
    if (/^(ERR_SSL_|EPROTO)/.test(code)) {
      return new HpcsError('identity', 'unreachable', `${where} does not speak TLS as it should (${code})`, {
        cause: error,
        suggestion: 'check the port of the url in the configuration, and that the service has TLS',
      });
    }
    if (isUntrusted(code)) {
      return new HpcsError('identity', 'untrusted-server', `the certificate of ${where} is not trusted (${code})`, {
        cause: error,
        suggestion: 'name the authority that issued it as ca-file in the configuration',
      });
    }
    return new HpcsError('identity', 'unreachable', `cannot reach ${where} (${reasons[code] ?? code})`, {
      cause: error,
      suggestion: 'check the url in the configuration, and that the service runs',
    });
  }
}

/** A time limit that begins anew whenever there is progress. */
class TimeLimit implements Disposable {
  readonly #abort = new AbortController();
  readonly #timer: NodeJS.Timeout;

  constructor(timeout: number) {
    this.#timer = setTimeout(() => this.#abort.abort(new DOMException('no answer in time', 'TimeoutError')), timeout);
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  renew(): void {
    this.#timer.refresh();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** Whether a connection ended with this code since the certificate of the other side counts for nothing here. */
export function isUntrusted(code: string): boolean {
  return /CERT|SELF_SIGNED|ISSUER|ALTNAME|VERIFY|HOSTNAME_MISMATCH/.test(code);
}

/** What undici and Node say, for people. */
const reasons: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ENOTFOUND: 'no such host',
  EAI_AGAIN: 'the name service does not answer',
  ECONNRESET: 'connection lost',
  UND_ERR_SOCKET: 'connection lost',
  UND_ERR_CONNECT_TIMEOUT: 'no connection in time',
  TimeoutError: 'no answer in time',
};

/** The PEM text of a `ca-file`, or undefined where none is configured. @throws HpcsError `usage` when it holds no certificate */
export async function readCa(file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined;
  let content: string;
  try {
    content = await readFile(file, 'utf8');
  } catch (error) {
    throw badCa(`cannot read the ca-file ${file}: ${systemCode(error) ?? 'unknown error'}`, error);
  }
  // TLS would pass over anything else in silence, and then trust nobody; and a key that lies beside the certificates must not go
  // where they go.
  const blocks = content.match(/-----BEGIN [^-]*-----[^-]*-----END [^-]*-----/g) ?? [''];
  try {
    for (const block of blocks) void new X509Certificate(block);
  } catch (error) {
    throw badCa(`the ca-file ${file} does not hold just certificates in PEM form`, error);
  }
  return `${blocks.join('\n')}\n`;
}

function badCa(message: string, cause: unknown): HpcsError {
  return new HpcsError('usage', 'ca-file-unreadable', message, { cause, suggestion: 'correct ca-file in the configuration' });
}

function proxied(): boolean {
  return ['https_proxy', 'HTTPS_PROXY', 'http_proxy', 'HTTP_PROXY'].some((name) => Boolean(process.env[name]));
}

/** JSON objects, one a line. @see https://github.com/ndjson/ndjson-spec */
const linesType = 'application/x-ndjson';

/** Reads lines of progress, and the answer that ends them. @throws SyntaxError for a line that is no JSON, or none at all */
async function readLines(
  body: AsyncIterable<Uint8Array>,
  onProgress: (done: number, total: number) => void,
): Promise<HttpAnswer> {
  let last: unknown;
  for await (const line of linesOf(limited(body), { unended: true })) {
    last = JSON.parse(line);
    const { progress } = (last ?? {}) as { progress?: { done?: unknown; total?: unknown } };
    if (typeof progress?.done === 'number' && typeof progress.total === 'number') onProgress(progress.done, progress.total);
  }
  const { status } = (last ?? {}) as { status?: unknown };
  if (typeof status !== 'number') throw new SyntaxError('no answer behind the lines');
  return { status, body: last };
}

async function* limited(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  let size = 0;
  for await (const part of body) {
    size += part.length;
    if (size > longestAnswer) throw new SyntaxError('too long');
    yield part;
  }
}

/** The text of a body, or undefined for one that is too long. */
async function readLimited(body: AsyncIterable<Uint8Array>, longest: number): Promise<string | undefined> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of body) {
    size += part.length;
    if (size > longest) return undefined;
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}

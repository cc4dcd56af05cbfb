import { readFile } from 'node:fs/promises';
import { Agent, EnvHttpProxyAgent, request, type Dispatcher } from 'undici';
import { HpcsError, systemCode } from './errors.ts';
import { Secret } from './secret.ts';

/** Answers are small records; anything longer is not one of ours. */
const longestAnswer = 4 * 1024 * 1024;

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
  /** Longest time for one request, in milliseconds. */
  timeout?: number;
}

/** One request. */
export interface HttpRequest {
  body?: unknown;
  headers?: Record<string, string | Secret>;
  signal?: AbortSignal | undefined;
}

/** Status and parsed JSON body (undefined where there is none). */
export interface HttpAnswer {
  status: number;
  body: unknown;
}

/** A JSON client for one service: fixed authorities, no redirects, a time limit, bounded answers. */
export class HttpClient implements AsyncDisposable {
  readonly name: string;
  readonly url: string;
  readonly #dispatcher: Dispatcher;
  readonly #timeout: number;

  /** @throws HpcsError `usage` for `http://` without `allowInsecureHttp` */
  constructor(options: HttpOptions) {
    if (options.url.startsWith('http://') && options.allowInsecureHttp !== true) {
      throw new HpcsError('usage', 'insecure-http', `the URL of the ${options.name} is not https: ${options.url}`, {
        suggestion:
          'use https:// (with ca-file for an authority of your own), or --allow-insecure-http where nobody else is on the network',
      });
    }
    this.name = options.name;
    this.url = options.url;
    this.#timeout = options.timeout ?? 30_000;
    const tls = options.ca === undefined ? {} : { ca: options.ca };
    this.#dispatcher = proxied() ? new EnvHttpProxyAgent({ connect: tls, requestTls: tls }) : new Agent({ connect: tls });
  }

  /**
   * Sends one request and reads its JSON answer, whatever its status.
   *
   * @throws HpcsError `identity` when the service cannot be reached, is not trusted or does not answer with JSON
   */
  async json(method: 'GET' | 'POST' | 'PUT' | 'DELETE' | 'LIST', path: string, options: HttpRequest = {}): Promise<HttpAnswer> {
    const headers: Record<string, string> = { accept: 'application/json' };
    for (const [name, value] of Object.entries(options.headers ?? {}))
      headers[name] = value instanceof Secret ? value.reveal() : value;
    if (options.body !== undefined) headers['content-type'] = 'application/json';
    const limit = AbortSignal.timeout(this.#timeout);
    let answer: Dispatcher.ResponseData;
    let content: string;
    try {
      answer = await request(this.url + path, {
        method: method as Dispatcher.HttpMethod,
        headers,
        body: options.body === undefined ? null : JSON.stringify(options.body),
        dispatcher: this.#dispatcher,
        signal: options.signal === undefined ? limit : AbortSignal.any([options.signal, limit]),
      });
      content = await readLimited(answer.body);
    } catch (error) {
      options.signal?.throwIfAborted();
      throw this.#unreachable(error);
    }
    if (content === '') return { status: answer.statusCode, body: undefined };
    try {
      return { status: answer.statusCode, body: JSON.parse(content) as unknown };
    } catch {
      throw new HpcsError(
        'identity',
        'bad-answer',
        `the ${this.name} at ${this.url} answered ${answer.statusCode} with something that is not JSON`,
        {
          suggestion: `check that the URL is that of the ${this.name} and not of a proxy or a web page`,
        },
      );
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#dispatcher.destroy();
  }

  #unreachable(error: unknown): HpcsError {
    const code = systemCode(error) ?? (error instanceof Error ? error.name : 'unknown error');
    const tls = /CERT|SELF_SIGNED|ISSUER|ALTNAME|SSL|TLS/.test(code);
    return new HpcsError(
      'identity',
      tls ? 'untrusted-server' : 'unreachable',
      tls
        ? `the certificate of the ${this.name} at ${this.url} is not trusted (${code})`
        : `cannot reach the ${this.name} at ${this.url} (${code})`,
      {
        cause: error,
        suggestion: tls
          ? 'name the authority that issued it as ca-file in the configuration'
          : 'check the url in the configuration, and that the service runs',
      },
    );
  }
}

/** The PEM text of a `ca-file`, or undefined where none is configured. */
export async function readCa(file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined;
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new HpcsError(
      'usage',
      'ca-file-unreadable',
      `cannot read the ca-file ${file}: ${systemCode(error) ?? 'unknown error'}`,
      {
        cause: error,
        suggestion: 'correct ca-file in the configuration',
      },
    );
  }
}

function proxied(): boolean {
  return ['https_proxy', 'HTTPS_PROXY', 'http_proxy', 'HTTP_PROXY'].some((name) => Boolean(process.env[name]));
}

async function readLimited(body: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of body) {
    size += part.length;
    if (size > longestAnswer) throw new Error(`answer longer than ${longestAnswer} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}

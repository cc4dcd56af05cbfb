import { setTimeout as sleep } from 'node:timers/promises';
import {
  ClientError,
  customFetch,
  discovery,
  genericGrantRequest,
  initiateDeviceAuthorization,
  None,
  ResponseBodyError,
  type Configuration,
  type CustomFetch,
  type DeviceAuthorizationResponse,
} from 'openid-client';
import { fetch as undiciFetch, type RequestInit } from 'undici';
import { HpcsError, messageOf, systemCode } from '../errors.ts';
import { isUntrusted, makeDispatcher } from '../http.ts';
import { Secret } from '../secret.ts';

/** How a person is to get a token of an issuer. */
export interface DeviceFlowOptions {
  /** The issuer, exactly as in its tokens. */
  issuer: string;
  /** Id of the public OAuth client that stands for this program there. */
  clientId: string;
  /** Space-separated, with `openid`. */
  scope: string;
  /** What the token has to hold as `nonce`: it ties the token to a key. */
  nonce: string;
  /** PEM text of the authorities to trust instead of the system's. */
  ca?: string | undefined;
  /** Told where the person has to go, and the code to enter there; once. */
  show: (place: { url: string; code: string; complete: string | undefined }) => void;
  signal: AbortSignal;
}

/**
 * Gets an ID token by the device authorization grant: the person logs in with any browser, on whatever machine.
 *
 * @throws HpcsError `identity` with code `login-denied`, `login-expired`, `login-refused` or `unreachable`; what `signal` was aborted with
 * @see RFC 8628; OpenID Connect Core 1.0
 */
export async function deviceFlow(options: DeviceFlowOptions): Promise<Secret> {
  const { issuer, clientId, scope, nonce, ca, show, signal } = options;
  await using connections = new AsyncDisposableStack();
  const dispatcher = connections.adopt(makeDispatcher(ca), (made) => made.destroy());
  const fetcher: CustomFetch = (url, init) =>
    undiciFetch(url, {
      ...init,
      redirect: 'manual',
      dispatcher,
      signal: AbortSignal.any(init.signal === undefined ? [signal] : [signal, init.signal]),
    } as RequestInit);
  try {
    const config = await discovery(new URL(issuer), clientId, undefined, None(), { [customFetch]: fetcher, timeout: 30 });
    // Discovery forgives a final slash; tokens do not.
    if (config.serverMetadata().issuer !== issuer) throw refused(issuer, 'it calls itself by another name');
    if (config.serverMetadata().device_authorization_endpoint === undefined) throw refused(issuer, 'it knows no device flow');
    const started = await initiateDeviceAuthorization(config, { scope, nonce });
    signal.throwIfAborted();
    const { verification_uri: url, user_code: code, verification_uri_complete: complete } = started;
    if (!isWeb(url) || (complete !== undefined && !isWeb(complete))) throw refused(issuer, 'it names no https page to log in at');
    show({ url, code, complete });
    const token = await poll(config, started, signal);
    if (token === undefined) throw refused(issuer, 'it gave no ID token');
    return new Secret(token);
  } catch (error) {
    signal.throwIfAborted();
    throw translated(error, issuer);
  }
}

const grant = 'urn:ietf:params:oauth:grant-type:device_code';
/** Seconds, where the issuer names none, and by which `slow_down` makes it longer. @see RFC 8628, 3.2 and 3.5 */
const usualInterval = 5;

// A connection that is lost meanwhile is no reason to begin anew. (The library's own loop cannot be interrupted while it waits.)
async function poll(
  config: Configuration,
  started: DeviceAuthorizationResponse,
  signal: AbortSignal,
): Promise<string | undefined> {
  const end = Date.now() + started.expires_in * 1000;
  let interval = started.interval ?? usualInterval;
  while (Date.now() < end) {
    await sleep(Math.min(interval * 1000, Math.max(end - Date.now(), 0)), undefined, { signal });
    try {
      return (await genericGrantRequest(config, grant, { device_code: started.device_code })).id_token;
    } catch (error) {
      signal.throwIfAborted();
      const code = error instanceof ResponseBodyError ? error.error : undefined;
      if (code === 'slow_down') interval += usualInterval;
      else if (code !== 'authorization_pending' && !isLost(error)) throw error;
    }
  }
  throw new HpcsError('identity', 'login-expired', 'nobody logged in before the code expired', again);
}

const again = { suggestion: 'start again: hpcs login' };

function translated(error: unknown, issuer: string): HpcsError {
  if (error instanceof HpcsError) return error;
  if (error instanceof ResponseBodyError) {
    if (error.error === 'access_denied')
      return new HpcsError('identity', 'login-denied', `the login at ${issuer} was denied`, again);
    if (error.error === 'expired_token') return new HpcsError('identity', 'login-expired', 'nobody logged in before the code expired', again); // prettier-ignore
    return refused(issuer, `${error.error}: ${error.error_description ?? 'no reason given'}`, error);
  }
  if (isLost(error)) {
    const code = causeCode(error);
    const untrusted = isUntrusted(code);
    return new HpcsError(
      'identity',
      untrusted ? 'untrusted-server' : 'unreachable',
      untrusted
        ? `the certificate of the issuer ${issuer} is not trusted (${code})`
        : `cannot reach the issuer ${issuer} (${code})`,
      {
        cause: error,
        suggestion: untrusted
          ? 'name the authority that issued it as issuer-ca-file in section [identity]'
          : 'check issuer in section [identity], and that it runs',
      },
    );
  }
  return refused(issuer, messageOf(error), error);
}

function refused(issuer: string, why: string, cause?: unknown): HpcsError {
  return new HpcsError('identity', 'login-refused', `the issuer ${issuer} does not take this login: ${why}`, {
    cause,
    suggestion: 'ask those who run the HPCS server whether issuer and audience are right, and the device flow allowed for it',
  });
}

/** Whether no answer came at all. */
function isLost(error: unknown): boolean {
  return causeCode(error) !== '' || (error instanceof ClientError && error.code === 'OAUTH_TIMEOUT');
}

function causeCode(error: unknown): string {
  for (let at = error; at instanceof Error; at = at.cause) {
    const code = systemCode(at);
    if (code !== undefined && !code.startsWith('OAUTH_')) return code;
  }
  return '';
}

function isWeb(url: string): boolean {
  return URL.canParse(url) && new URL(url).protocol === 'https:';
}

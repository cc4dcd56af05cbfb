import { dirname } from 'node:path';
import type { Config } from '../config.ts';
import { HpcsError } from '../errors.ts';
import { HpcsServer } from '../hpcs.ts';
import { readCa } from '../http.ts';
import { stateDirectory } from '../state.ts';
import { ciLogin, ciSource, forgetEnded, lasting, type CiSource } from './ci.ts';
import { enrolledFile, readEnrolled, type Enrolled } from './enrolled.ts';
import type { ClientIdentity, IdentityOptions } from './identity.ts';
import { isOver, loginFile, type Session } from './login.ts';
import { keyProver, type Prover } from './proof.ts';

/**
 * Gets this client an identity, in the way that the configuration names: from the SPIRE agent at `SPIFFE_ENDPOINT_SOCKET`, with the
 * token of a CI job, with the key of a login or one that was enrolled, or by registering at an HPCS server that gives identities to
 * anyone and starting an agent. By itself it takes the first of these that there is. Which it is, is told.
 *
 * @throws HpcsError `identity`, `local` or `usage`
 */
export async function openIdentity(config: Config, options: IdentityOptions): Promise<ClientIdentity> {
  const wanted = config.identity.client;
  const env = options.env ?? process.env;
  const socket = env['SPIFFE_ENDPOINT_SOCKET'] || undefined;
  if (wanted === 'agent' || (wanted === 'auto' && socket !== undefined)) {
    if (socket !== undefined) return (await agents()).adopt(config, options, socket);
    throw new HpcsError('usage', 'no-agent', 'client = agent in section [identity], but SPIFFE_ENDPOINT_SOCKET is not set', {
      suggestion: 'set it to the socket of the SPIRE agent on this machine: unix:///…',
    });
  }
  if (wanted === 'register') return registered(config, options);
  const source = ciSource(env);
  // A token in a variable of ours is there for us. GitHub's may be there for others: it comes last.
  if (source !== undefined && (wanted === 'ci' || (wanted === 'auto' && source.kind !== 'github')))
    return useCi(config, options, source);
  if (wanted === 'ci') throw noCiToken();
  if (wanted !== 'key') {
    const file = await loginFile(config, options.env);
    await forgetEnded(dirname(file));
    const session = await readEnrolled(file);
    if (session !== undefined) return useKey(config, options, session, file);
    if (wanted === 'login') {
      throw new HpcsError('identity', 'not-logged-in', `nobody is logged in here: there is no ${file}`, {
        suggestion: 'log in: hpcs login',
      });
    }
  }
  const file = await keyFile(config);
  const enrolled = await readEnrolled(file);
  if (enrolled !== undefined) return useKey(config, options, enrolled, file);
  // Whoever names a key means it.
  if (wanted === 'auto' && config.identity['key-file'] === undefined) {
    if (source !== undefined && (await takesGithub(config, options.signal))) return useCi(config, options, source);
    return registered(config, options);
  }
  throw new HpcsError('identity', 'not-enrolled', `this client is not enrolled: there is no ${file}`, {
    suggestion: 'ask those who run the HPCS server for a token, and enrol: hpcs enrol',
  });
}

// Loading what agents are asked with takes longer than everything else here, and most clients have none.
const agents = (): Promise<typeof import('./agent-identity.ts')> => import('./agent-identity.ts');

async function registered(config: Config, options: IdentityOptions): Promise<ClientIdentity> {
  await using server = await openServer(config);
  return await (await agents()).register(config, options, server);
}

/** Where this client's key lies, or will. @throws HpcsError `local` as {@link stateDirectory} */
export async function keyFile(config: Config): Promise<string> {
  return config.identity['key-file'] ?? enrolledFile(await stateDirectory(config));
}

function noCiToken(): HpcsError {
  return new HpcsError('usage', 'no-ci-token', 'client = ci in section [identity], but this is no CI job with a token', {
    suggestion: 'on GitHub give the job permissions: id-token: write; on GitLab set id_tokens: HPCS_ID_TOKEN: aud: …',
  });
}

async function takesGithub(config: Config, signal: AbortSignal): Promise<boolean> {
  await using server = await openServer(config);
  return (await server.issuers(signal)).some(({ kind }) => kind === 'github');
}

async function useCi(config: Config, options: IdentityOptions, source: CiSource): Promise<ClientIdentity> {
  const { signal, progress } = options;
  await using cleanup = new AsyncDisposableStack();
  const server = cleanup.use(await openServer(config));
  const { session, renew } = await ciLogin(source, server, { config, signal, env: options.env });
  progress(`identity: ${session.name} (client ${session.clientId}), by the token of this CI job, until ${session.expires}`);
  let current = session;
  let lasts: Promise<Session> | undefined;
  const prove: Prover = async (request) => {
    // Calls that are made at the same moment are interrupted together.
    lasts ??= lasting(current, renew, request.signal).finally(() => (lasts = undefined));
    current = await lasts;
    return keyProver(current.key)(request);
  };
  return await proven(session, prove, { config, server, cleanup, signal });
}

async function useKey(
  config: Config,
  { signal, progress }: IdentityOptions,
  enrolled: Enrolled,
  file: string,
): Promise<ClientIdentity> {
  const trustDomain = config['spire-server']['trust-domain'];
  if (enrolled.trustDomain !== trustDomain) {
    throw new HpcsError(
      'usage',
      'enrolled-elsewhere',
      `the key ${file} was enrolled in ${enrolled.trustDomain}, not in ${trustDomain}`,
      {
        suggestion: 'correct trust-domain in section [spire-server], or name the right key-file in section [identity]',
      },
    );
  }
  const { name, clientId, expires } = enrolled;
  if (isOver(enrolled)) {
    throw new HpcsError('identity', 'session-expired', `the session of ${name} ended at ${expires}`, {
      suggestion: 'log in again: hpcs login (or hpcs logout, to use what was there before)',
    });
  }
  progress(
    `identity: ${name} (client ${clientId}), by ${expires === undefined ? 'its enrolled key' : `a login, until ${expires}`}`,
  );
  const prove = keyProver(enrolled.key);
  await using cleanup = new AsyncDisposableStack();
  const server = cleanup.use(await openServer(config));
  return await proven(enrolled, prove, { config, server, cleanup, signal });
}

/** The identity of a client that proves possession of a key; what `cleanup` holds, belongs to it from now on. */
async function proven(
  { clientId, spiffeId }: Enrolled,
  prove: Prover,
  means: { config: Config; server: HpcsServer; cleanup: AsyncDisposableStack; signal: AbortSignal },
): Promise<ClientIdentity> {
  const { config, server, cleanup, signal } = means;
  // The first token proves that the server knows the key, before anything is built upon it.
  using _first = await server.clientToken(config['hpcs-server'].audience, prove, signal);
  const owned = cleanup.move();
  return {
    clientId,
    spiffeId,
    prove,
    jwt: (audience) => server.clientToken(audience, prove, signal),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function openServer(config: Config): Promise<HpcsServer> {
  const { url, 'ca-file': caFile } = config['hpcs-server'];
  return new HpcsServer({ url, ca: await readCa(caFile), allowInsecureHttp: config.client['allow-insecure-http'] });
}

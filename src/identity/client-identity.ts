import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Config } from '../config.ts';
import { HpcsError, systemCode } from '../errors.ts';
import { HpcsServer } from '../hpcs.ts';
import { readCa } from '../http.ts';
import { Secret } from '../secret.ts';
import { stateDirectory } from '../state.ts';
import { startAgent } from './agent.ts';
import { ciLogin, ciSource, forgetEnded, lasting, type CiSource } from './ci.ts';
import { enrolledFile, readEnrolled, type Enrolled } from './enrolled.ts';
import { isOver, loginFile, type Session } from './login.ts';
import { keyProver, type Prover } from './proof.ts';
import { clientOf, formatSpiffeId, parseSpiffeId, spiffeIds } from './spiffe-id.ts';
import { fetchJwtSvids } from './workload-api.ts';

/** This client's identity, for as long as it is held. */
export interface ClientIdentity extends AsyncDisposable {
  /** 9 hex characters. */
  readonly clientId: string;
  /** SPIFFE ID of this process. */
  readonly spiffeId: string;
  /** A fresh token for one audience. @throws HpcsError `identity` */
  jwt(audience: string): Promise<Secret>;
  /** Proves to the HPCS server that this client calls. */
  readonly prove: Prover;
}

/** What {@link openIdentity} needs beside the configuration. */
export interface IdentityOptions {
  signal: AbortSignal;
  /** Told what is being waited for. */
  progress: (message: string) => void;
  env?: NodeJS.ProcessEnv;
}

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
    if (socket !== undefined) return adopt(config, options, socket);
    throw new HpcsError('usage', 'no-agent', 'client = agent in section [identity], but SPIFFE_ENDPOINT_SOCKET is not set', {
      suggestion: 'set it to the socket of the SPIRE agent on this machine: unix:///…',
    });
  }
  if (wanted === 'register') return register(config, options);
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
    return register(config, options);
  }
  throw new HpcsError('identity', 'not-enrolled', `this client is not enrolled: there is no ${file}`, {
    suggestion: 'ask those who run the HPCS server for a token, and enrol: hpcs enrol',
  });
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
    lasts ??= lasting(current, renew, signal).finally(() => (lasts = undefined));
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

/** Shows the HPCS server a token of its audience, which agents give. */
function tokenProver(jwt: () => Promise<Secret>): Prover {
  return async () => {
    using token = await jwt();
    return { authorization: new Secret(`Bearer ${token.reveal()}`) };
  };
}

async function adopt(config: Config, { signal, progress }: IdentityOptions, socket: string): Promise<ClientIdentity> {
  progress(`asking the SPIRE agent at ${socket} for an identity`);
  const svids = await fetchJwtSvids({ socket, audience: [config['hpcs-server'].audience], signal });
  const trustDomain = config['spire-server']['trust-domain'];
  for (const { spiffeId } of svids) {
    const id = parseSpiffeId(spiffeId);
    const clientId = clientOf(id);
    if (clientId === undefined || id.trustDomain !== trustDomain) continue;
    return {
      clientId,
      spiffeId,
      prove: tokenProver(() => oneToken(socket, spiffeId, config['hpcs-server'].audience, signal)),
      jwt: (audience) => oneToken(socket, spiffeId, audience, signal),
      [Symbol.asyncDispose]: async () => undefined,
    };
  }
  throw new HpcsError(
    'identity',
    'not-a-client',
    `the SPIRE agent at ${socket} gave this process no client identity of ${trustDomain}, but ${svids.map((svid) => svid.spiffeId).join(', ')}`,
    { suggestion: 'unset SPIFFE_ENDPOINT_SOCKET to register this client, or let an entry for it be made' },
  );
}

async function register(config: Config, { signal, progress }: IdentityOptions): Promise<ClientIdentity> {
  await using server = await openServer(config);
  const spire = config['spire-server'];
  const trustBundle = await readTrustBundle(spire['trust-bundle-file'], server, signal);
  progress(`registering at the HPCS server ${config['hpcs-server'].url}`);
  const registration = await server.register({ uid: process.getuid?.(), signal });
  using joinToken = registration.joinToken;
  progress('starting spire-agent and waiting for an identity');
  await using cleanup = new AsyncDisposableStack();
  const agent = await startAgent({
    bin: config['spire-agent'].bin,
    serverAddress: spire.address,
    serverPort: spire.port,
    trustDomain: spire['trust-domain'],
    trustBundle,
    joinToken,
    signal,
  });
  cleanup.use(agent);
  const { clientId } = registration;
  const spiffeId = formatSpiffeId(spiffeIds.clientWorkload(spire['trust-domain'], clientId));
  // The first token proves that the agent knows this process, before anything is built upon it.
  await oneToken(agent.socket, spiffeId, config['hpcs-server'].audience, signal);
  const owned = cleanup.move();
  return {
    clientId,
    spiffeId,
    prove: tokenProver(() => oneToken(agent.socket, spiffeId, config['hpcs-server'].audience, signal)),
    jwt: (audience) => oneToken(agent.socket, spiffeId, audience, signal),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function oneToken(socket: string, spiffeId: string, audience: string, signal: AbortSignal): Promise<Secret> {
  const svids = await fetchJwtSvids({ socket, spiffeId, audience: [audience], signal });
  const [svid] = svids;
  if (svid === undefined || svid.spiffeId !== spiffeId) {
    throw new HpcsError('identity', 'no-identity', `the SPIRE agent at ${socket} did not issue ${spiffeId}`, {
      suggestion: 'try again',
    });
  }
  return svid.token;
}

/** PEM text of the SPIRE server's authorities: from the configured file, else from the HPCS server. @throws HpcsError `usage` */
export async function readTrustBundle(file: string | undefined, server: HpcsServer, signal: AbortSignal): Promise<string> {
  if (file === undefined) {
    const bundle = await server.trustBundle(signal);
    if (bundle !== undefined) return bundle;
    throw new HpcsError('usage', 'trust-bundle-missing', 'the HPCS server does not hand out the trust bundle of SPIRE', {
      suggestion: 'set trust-bundle-file in section [spire-server] (spire-server bundle show prints it)',
    });
  }
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new HpcsError(
      'usage',
      'trust-bundle-unreadable',
      `cannot read the trust-bundle-file ${file}: ${systemCode(error) ?? 'unknown error'}`,
      { cause: error, suggestion: 'correct trust-bundle-file in section [spire-server]' },
    );
  }
}

/** Identities of clients that a SPIRE agent on this machine gives: one that is there, or one that is started for them. */
import type { Config } from '../config.ts';
import { HpcsError } from '../errors.ts';
import type { HpcsServer } from '../hpcs.ts';
import { Secret } from '../secret.ts';
import { startAgent } from './agent.ts';
import type { ClientIdentity, IdentityOptions } from './identity.ts';
import type { Prover } from './proof.ts';
import { clientOf, formatSpiffeId, parseSpiffeId, spiffeIds } from './spiffe-id.ts';
import { readTrustBundle } from './trust-bundle.ts';
import { fetchJwtSvids } from './workload-api.ts';

/** Shows the HPCS server a token of its audience, which agents give. */
function tokenProver(jwt: (signal: AbortSignal | undefined) => Promise<Secret>): Prover {
  return async ({ signal }) => {
    using token = await jwt(signal);
    return { authorization: new Secret(`Bearer ${token.reveal()}`) };
  };
}

/** The identity that the agent behind a socket gives this process. @throws HpcsError `identity` */
export async function adopt(config: Config, { signal, progress }: IdentityOptions, socket: string): Promise<ClientIdentity> {
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
      prove: proverOf(socket, spiffeId, config),
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

/** Registers at an HPCS server that gives identities to anyone, and starts an agent, which disposing of it ends. @throws HpcsError */
export async function register(
  config: Config,
  { signal, progress }: IdentityOptions,
  server: HpcsServer,
): Promise<ClientIdentity> {
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
    prove: proverOf(agent.socket, spiffeId, config),
    jwt: (audience) => oneToken(agent.socket, spiffeId, audience, signal),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

// Not with the identity's own signal: what is taken back after an interruption takes a proof, too.
function proverOf(socket: string, spiffeId: string, config: Config): ClientIdentity['prove'] {
  return tokenProver((signal) => oneToken(socket, spiffeId, config['hpcs-server'].audience, signal));
}

async function oneToken(socket: string, spiffeId: string, audience: string, signal?: AbortSignal): Promise<Secret> {
  const svids = await fetchJwtSvids({ socket, spiffeId, audience: [audience], signal });
  const [svid] = svids;
  if (svid === undefined || svid.spiffeId !== spiffeId) {
    throw new HpcsError('identity', 'no-identity', `the SPIRE agent at ${socket} did not issue ${spiffeId}`, {
      suggestion: 'try again',
    });
  }
  return svid.token;
}

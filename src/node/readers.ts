import { HpcsError } from '../errors.ts';
import { HpcsServer } from '../hpcs.ts';
import { startAgent, type SpireAgent } from '../identity/agent.ts';
import { fetchJwtSvids } from '../identity/workload-api.ts';
import type { JobAccess, JobPlan } from '../job/plan.ts';
import { Vault } from '../vault.ts';
import type { KeyContext, RecordRole } from './key-context.ts';

type AgentAccess = Extract<JobAccess, { mode: 'agent' }>;
type OwnAgent = Exclude<AgentAccess['agent'], { socket: string }>;

/** A job as readers that an agent on its node attests. Disposing of it ends the agent. */
export class AttestedReaders implements AsyncDisposable {
  readonly #plan: JobPlan;
  readonly #agent: SpireAgent;
  readonly #vault: Vault;
  readonly #audience: string;
  readonly #context: KeyContext;

  constructor(plan: JobPlan, agent: SpireAgent, vault: Vault, audience: string, context: KeyContext) {
    this.#plan = plan;
    this.#agent = agent;
    this.#vault = vault;
    this.#audience = audience;
    this.#context = context;
  }

  /** Reads one record: one identity and one vault login for each. @throws HpcsError `identity` */
  async read(role: RecordRole): Promise<unknown> {
    const secret = this.#plan[role];
    const { node, signal, progress } = this.#context;
    const svids = await fetchJwtSvids({
      socket: this.#agent.socket,
      audience: [this.#audience],
      spiffeId: secret.spiffeId,
      signal,
    });
    const svid = svids.find((candidate) => candidate.spiffeId === secret.spiffeId);
    if (svid === undefined) {
      throw new HpcsError(
        'identity',
        'no-identity',
        `this job is not a reader of the ${role}: SPIRE gave no ${secret.spiffeId} on ${node}`,
        {
          suggestion:
            'grant it to this user and node when preparing the artefact (-u, -g, -c, with mode = agent in section [identity])',
        },
      );
    }
    await using session = await this.#vault.login(secret.role, svid.token, signal);
    progress(`keys: read the record of the ${role}`);
    return await session.read(secret.secretPath, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent[Symbol.asyncDispose]();
    await this.#vault[Symbol.asyncDispose]();
  }
}

/**
 * Becomes the readers that the plan names: as the site's agent attests this job, or with a join token for this node and an agent for as
 * long as it takes.
 *
 * @throws HpcsError `identity`
 */
export async function becomeReaders(plan: JobPlan, access: AgentAccess, context: KeyContext): Promise<AttestedReaders> {
  const agent = 'socket' in access.agent ? siteAgent(access.agent.socket, context) : await ownAgent(plan, access.agent, context);
  const { vault } = access;
  const { allowInsecureHttp } = plan.hpcsServer;
  const bank = new Vault({ url: vault.url, ca: vault.ca ?? undefined, namespace: vault.namespace, allowInsecureHttp });
  return new AttestedReaders(plan, agent, bank, vault.audience, context);
}

/** The agent that the site runs on its nodes, which outlives the job. */
function siteAgent(socket: string, { progress }: KeyContext): SpireAgent {
  progress(`identity: asking the site's SPIRE agent at ${socket}`);
  return { socket, [Symbol.asyncDispose]: async () => undefined };
}

async function ownAgent(plan: JobPlan, spireServer: OwnAgent, context: KeyContext): Promise<SpireAgent> {
  const { url, ca, allowInsecureHttp } = plan.hpcsServer;
  await using server = new HpcsServer({ url, ca: ca ?? undefined, allowInsecureHttp });
  const { joinToken } = await server.nodeToken(context.node, context.signal);
  context.progress(`identity: attesting node ${context.node}`);
  return await startAgent({
    bin: context.agentProgram,
    serverAddress: spireServer.address,
    serverPort: spireServer.port,
    trustDomain: spireServer.trustDomain,
    trustBundle: spireServer.trustBundle,
    joinToken,
    parent: context.directory,
    signal: context.signal,
  });
}

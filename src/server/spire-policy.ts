import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { packageRoot } from '../package-root.ts';
import { ownIdentity, type ServerConfig } from './config.ts';

/** Longest life of what the server may have made in SPIRE, in seconds, unless its configuration wants longer ones. */
const longestTtl = 3600;

/**
 * SPIRE's authorization policy: what the HPCS server may do there, and everybody else.
 *
 * @see SPIRE, doc/authorization_policy_engine.md
 * @returns the text of the policy (rego), and of the data that it decides by (JSON)
 */
export async function spirePolicy(
  config: ServerConfig,
  options: { agentMode: boolean },
): Promise<{ rego: string; data: string }> {
  const spire = config['spire-server'];
  const hpcs = {
    servers: [ownIdentity(config)],
    trust_domain: spire['trust-domain'],
    audiences: [...new Set([...config.client.audience, ...config.vault.audience])],
    longest_ttl: Math.max(longestTtl, spire['join-token-ttl'], spire['jwt-svid-ttl']),
    agent_mode: options.agentMode,
  };
  return {
    rego: await readFile(join(packageRoot(), 'docker/server/spire-policy.rego'), 'utf8'),
    data: `${JSON.stringify({ hpcs }, null, 2)}\n`,
  };
}

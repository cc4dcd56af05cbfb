import type Docker from 'dockerode';
import { must, type ContainerPlan } from './engine.ts';
import { issuer, legacyUid, parts, ports, serverIds, serverUid, sockets, trustDomain, volumes } from './names.ts';
import type { ServerCertificate } from './keys.ts';

const bin = '/opt/spire/bin';

/**
 * The SPIRE server: identities of everything in the sandbox.
 *
 * @param policy what it lets the HPCS server do
 */
export function spireServerPlan(image: string, policy: { rego: string; data: string }): ContainerPlan {
  return {
    name: parts.spireServer,
    image,
    entrypoint: [`${bin}/spire-server`, 'run', '-config', '/etc/spire/server.conf'],
    // The admin socket is made for owner and group: the group lets the OIDC provider in, and the server for clients of the original.
    user: `0:${serverUid}`,
    volumes: { '/run/spire-admin': volumes.admin },
    ports: [ports.spireServer],
    files: [
      { name: 'var/lib/spire/', type: 'directory' },
      { name: 'etc/spire/policy.rego', content: policy.rego },
      { name: 'etc/spire/policy-data.json', content: policy.data },
      {
        name: 'etc/spire/server.conf',
        content: `server {
  bind_address = "0.0.0.0"
  bind_port = "${ports.spireServer}"
  trust_domain = "${trustDomain}"
  data_dir = "/var/lib/spire"
  socket_path = "${sockets.admin}"
  jwt_issuer = "${issuer}"
  # The trust bundle in the client's directory stays valid as long as a sandbox lives.
  ca_ttl = "8760h"
  default_x509_svid_ttl = "1h"
  default_jwt_svid_ttl = "5m"
  # New entries reach agents after a second, not five.
  experimental {
    cache_reload_interval = "1s"
    auth_opa_policy_engine { local { rego_path = "/etc/spire/policy.rego" policy_data_path = "/etc/spire/policy-data.json" } }
  }
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "/var/lib/spire/datastore.sqlite3" } }
  KeyManager "disk" { plugin_data { keys_path = "/var/lib/spire/keys.json" } }
  NodeAttestor "join_token" { plugin_data {} }
}
`,
      },
    ],
  };
}

/** The provider that lets the vault check JWT-SVIDs. */
export function oidcPlan(image: string, { certificate, key }: ServerCertificate): ContainerPlan {
  return {
    name: parts.oidc,
    image,
    entrypoint: [`${bin}/oidc-discovery-provider`, '-config', '/etc/spire/oidc.conf'],
    user: `0:${serverUid}`,
    volumes: { '/run/spire-admin': volumes.admin },
    ports: [ports.oidc],
    files: [
      { name: 'etc/spire/tls.crt', content: certificate },
      { name: 'etc/spire/tls.key', content: key.bytes(), mode: 0o600 },
      {
        name: 'etc/spire/oidc.conf',
        content: `domains = ["${parts.oidc}", "localhost", "127.0.0.1"]
jwt_issuer = "${issuer}"
serving_cert_file {
  addr = "0.0.0.0:${ports.oidc}"
  cert_file_path = "/etc/spire/tls.crt"
  key_file_path = "/etc/spire/tls.key"
}
server_api { address = "unix://${sockets.admin}" poll_interval = "2s" }
`,
      },
    ],
  };
}

/** The agent that gives the HPCS server its identity. */
export function spireAgentPlan(image: string, joinToken: string, bundle: string): ContainerPlan {
  return {
    name: parts.spireAgent,
    image,
    entrypoint: [`${bin}/spire-agent`, 'run', '-config', '/etc/spire/agent.conf'],
    volumes: { '/run/spire-agent': volumes.agent },
    files: [
      { name: 'var/lib/spire/', type: 'directory' },
      { name: 'etc/spire/bundle.pem', content: bundle },
      { name: 'etc/spire/join-token', content: joinToken, mode: 0o600 },
      {
        name: 'etc/spire/agent.conf',
        content: `agent {
  trust_domain = "${trustDomain}"
  trust_bundle_path = "/etc/spire/bundle.pem"
  server_address = "${parts.spireServer}"
  server_port = "${ports.spireServer}"
  data_dir = "/var/lib/spire"
  socket_path = "${sockets.agent}"
  join_token_file = "/etc/spire/join-token"
}
plugins {
  KeyManager "disk" { plugin_data { directory = "/var/lib/spire" } }
  NodeAttestor "join_token" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
`,
      },
    ],
  };
}

/** Whether a SPIRE server or agent is ready; throws with what it says when not. */
export async function checkSpire(container: Docker.Container, program: 'server' | 'agent'): Promise<void> {
  const socket = program === 'server' ? sockets.admin : sockets.agent;
  await must(container, [`${bin}/spire-${program}`, 'healthcheck', '-socketPath', socket], { limit: 5000 });
}

/** Registers the HPCS servers' workloads. @returns the join token of its agent and the trust bundle (PEM) */
export async function registerServer(
  server: Docker.Container,
  signal: AbortSignal | undefined,
): Promise<{ joinToken: string; bundle: string }> {
  const agent = `spiffe://${trustDomain}/hpcs-server/agent`;
  const run = (...words: string[]): Promise<string> =>
    must(server, [`${bin}/spire-server`, ...words, '-socketPath', sockets.admin], { signal });
  for (const [id, uid] of [
    [serverIds.hpcsServer, serverUid],
    [serverIds.legacyServer, legacyUid],
  ] as const)
    // prettier-ignore
    await run('entry', 'create', '-parentID', agent, '-spiffeID', id, '-selector', `unix:uid:${uid}`);
  const token = JSON.parse(await run('token', 'generate', '-output', 'json', '-ttl', '600', '-spiffeID', agent)) as {
    value: string;
  };
  return { joinToken: token.value, bundle: await run('bundle', 'show', '-format', 'pem') };
}

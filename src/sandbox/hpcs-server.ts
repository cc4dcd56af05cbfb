import { rm } from 'node:fs/promises';
import type Docker from 'dockerode';
import { z } from 'zod';
import { HpcsServer } from '../hpcs.ts';
import type { HttpClient } from '../http.ts';
import { enrol } from '../identity/enrolled.ts';
import { Secret } from '../secret.ts';
import type { ServerCertificate } from './keys.ts';
import { must, sandboxFailed, type ContainerPlan } from './engine.ts';
import { legacyUid, parts, ports, serverIds, serverRoles, serverUid, sockets, trustDomain, volumes } from './names.ts';
import { vaultAudience } from './openbao.ts';

/** The one audience of the original's tokens. */
const originalAudience = 'TESTING';

/** What clients of the original need: they do not say which user they run as, and show one token to all services. */
const originalClients = `
[client]
audience = hpcs-server, ${originalAudience}
selectors = unix:uid:0
`;

/** A host that there is not, for whose agent clients of the sandbox may have join tokens: to be tried out without any harm. */
export const tokenNode = 'token-node';

const configuration = '/etc/hpcs/hpcs-server.conf';
/** Where the server tells how it is, within its container. */
const monitoringPort = 10_090;

/**
 * An HPCS server: for enrolled clients, confined by SPIRE; or as `legacyServer` open to anyone and on
 * SPIRE's private socket, as the original is.
 */
export function hpcsServerPlan(
  image: string,
  authority: string,
  { certificate, key }: ServerCertificate,
  part: 'hpcsServer' | 'legacyServer' = 'hpcsServer',
): ContainerPlan {
  const legacy = part === 'legacyServer';
  const uid = legacy ? legacyUid : serverUid;
  const own = { uid, gid: serverUid };
  return {
    name: parts[part],
    image,
    command: ['--config', configuration, ...(legacy ? ['--allow-legacy-registration'] : [])],
    user: `${uid}:${serverUid}`,
    // A user without an entry in the image's passwd: oclif asks for its shell and home.
    environment: { HOME: '/tmp', SHELL: '/bin/sh' },
    // The agent looks its callers up by process id.
    processesOf: parts.spireAgent,
    volumes: { ...(legacy && { '/run/spire-admin': volumes.admin }), '/run/spire-agent': volumes.agent },
    ports: [ports[part]],
    files: [
      { name: 'etc/hpcs/ca.pem', content: authority },
      { name: 'etc/hpcs/tls.crt', content: certificate },
      { name: 'etc/hpcs/tls.key', content: key.bytes(), mode: 0o400, ...own },
      {
        name: configuration.slice(1),
        content: serverConfiguration(part),
      },
    ],
  };
}

/** The configuration of a server. */
export function serverConfiguration(part: 'hpcsServer' | 'legacyServer'): string {
  return `[spire-server]
address = ${parts.spireServer}
port = ${ports.spireServer}
trust-domain = ${trustDomain}
${part === 'legacyServer' ? `socket-path = ${sockets.admin}\n` : ''}
[spire-agent]
spire-agent-socket = ${sockets.agent}
hpcs-server-spiffeid = ${serverIds[part]}

[vault]
url = https://${parts.openbao}:${ports.openbao}
server-role = ${serverRoles[part]}
ca-file = /etc/hpcs/ca.pem
audience = ${vaultAudience}${part === 'legacyServer' ? `, ${originalAudience}` : ''}
${part === 'legacyServer' ? originalClients : ''}
[nodes]
allow = ${tokenNode}

[listen]
port = ${ports.hpcsServer}

[tls]
cert-file = /etc/hpcs/tls.crt
key-file = /etc/hpcs/tls.key

[monitoring]
port = ${monitoringPort}
`;
}

/**
 * Enrols a client: the server makes a token, a key is made here.
 *
 * @param options.file where the key is kept; one of an earlier sandbox is replaced
 */
export async function enrolClient(
  container: Docker.Container,
  options: { name: string; url: string; ca: string; file: string; signal?: AbortSignal | undefined },
): Promise<void> {
  const { name, url, ca, file, signal } = options;
  const { Config } = await container.inspect();
  const program = [Config.Entrypoint ?? []].flat();
  const made = await must(container, [...program, 'enrol', '--config', configuration, '--name', name, '--json'], { signal });
  using token = new Secret(z.object({ token: z.string() }).parse(JSON.parse(made)).token);
  await rm(file, { force: true });
  await rm(`${file}.new`, { force: true });
  await using server = new HpcsServer({ url, ca });
  await enrol(server, token, { file, url, signal });
}

/** Whether the HPCS server answers and reaches SPIRE and the vault. */
export async function checkHpcsServer(server: HttpClient): Promise<void> {
  const { status, body } = await server.json('GET', '/readyz');
  if (status !== 200) throw sandboxFailed(`the HPCS server answers ${status}: ${JSON.stringify(body)}`);
}

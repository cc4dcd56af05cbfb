import { HpcsError } from '../errors.ts';
import type { HttpClient } from '../http.ts';
import type { ServerCertificate } from './keys.ts';
import type { ContainerPlan } from './engine.ts';
import { parts, ports, serverUid, sockets, trustDomain, volumes } from './names.ts';
import { vaultAudience } from './openbao.ts';

/** The HPCS server, open to any client: `--allow-legacy-registration`. */
export function hpcsServerPlan(image: string, authority: string, { certificate, key }: ServerCertificate): ContainerPlan {
  const own = { uid: serverUid, gid: serverUid };
  return {
    name: parts.hpcsServer,
    image,
    command: ['--config', '/etc/hpcs/hpcs-server.conf', '--allow-legacy-registration'],
    user: `${serverUid}:${serverUid}`,
    // A user without an entry in the image's passwd: oclif asks for its shell and home.
    environment: { HOME: '/tmp', SHELL: '/bin/sh' },
    // The agent looks its callers up by process id.
    processesOf: parts.spireAgent,
    volumes: { '/run/spire-admin': volumes.admin, '/run/spire-agent': volumes.agent },
    ports: [ports.hpcsServer],
    files: [
      { name: 'etc/hpcs/ca.pem', content: authority },
      { name: 'etc/hpcs/tls.crt', content: certificate },
      { name: 'etc/hpcs/tls.key', content: key.bytes(), mode: 0o400, ...own },
      {
        name: 'etc/hpcs/hpcs-server.conf',
        content: `[spire-server]
address = ${parts.spireServer}
port = ${ports.spireServer}
trust-domain = ${trustDomain}
socket-path = ${sockets.admin}

[spire-agent]
spire-agent-socket = ${sockets.agent}
hpcs-server-spiffeid = spiffe://${trustDomain}/hpcs-server/workload

[vault]
url = https://${parts.openbao}:${ports.openbao}
server-role = hpcs-server
ca-file = /etc/hpcs/ca.pem
audience = ${vaultAudience}

[listen]
port = ${ports.hpcsServer}

[tls]
cert-file = /etc/hpcs/tls.crt
key-file = /etc/hpcs/tls.key
`,
      },
    ],
  };
}

/** Whether the HPCS server answers and reaches SPIRE and the vault. */
export async function checkHpcsServer(server: HttpClient): Promise<void> {
  const { status, body } = await server.json('GET', '/healthz');
  if (status !== 200)
    throw new HpcsError('local', 'sandbox-failed', `the HPCS server answers ${status}: ${JSON.stringify(body)}`);
}

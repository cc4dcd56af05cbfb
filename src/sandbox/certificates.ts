import type Docker from 'dockerode';
import { HpcsError } from '../errors.ts';
import { runContainer } from '../image/docker.ts';
import { Secret } from '../secret.ts';
import { lastLines } from './engine.ts';

/** A server's certificate (PEM) and its key. */
export interface ServerCertificate {
  certificate: string;
  key: Secret;
}

/** An authority of the sandbox, and what it issued. Its own key is gone by the time this exists. */
export interface Certificates<Name extends string> {
  /** PEM of the authority. */
  authority: string;
  servers: Record<Name, ServerCertificate>;
}

// Everything lies in memory and ends with the container. Output: the authority, then key and certificate of each name.
const script = `set -euo pipefail
umask 077; cd /dev/shm
new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc'
openssl req -x509 $new -days 365 -subj '/CN=HPCS sandbox authority' -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' \\
  -addext 'keyUsage=critical,keyCertSign,cRLSign' -keyout ca.key -out ca.pem 2>/dev/null
cat ca.pem
for name; do
  printf 'subjectAltName=DNS:%s,DNS:localhost,IP:127.0.0.1\\nkeyUsage=critical,digitalSignature\\nextendedKeyUsage=serverAuth\\nbasicConstraints=critical,CA:FALSE\\n' "$name" >extensions
  openssl req -new $new -subj "/CN=$name" -keyout key -out request 2>/dev/null
  openssl x509 -req -in request -CA ca.pem -CAkey ca.key -days 365 -extfile extensions -out certificate 2>/dev/null
  cat key certificate
done
rm -f ./*`;

/**
 * Makes an authority and a certificate for each host name (valid for `localhost` and `127.0.0.1` too), in a container.
 *
 * @param image one with openssl and bash
 */
export async function makeCertificates<Name extends string>(
  docker: Docker,
  image: string,
  names: readonly Name[],
  signal: AbortSignal | undefined,
): Promise<Certificates<Name>> {
  const spec = {
    image,
    entrypoint: ['bash', '-c', script, 'bash'],
    command: names,
    host: { NetworkMode: 'none', CapDrop: ['ALL'] },
  };
  const { code, stdout, stderr } = await runContainer(docker, spec, { signal });
  const blocks = stdout.toString('latin1').match(/-----BEGIN [A-Z ]+-----[^-]+-----END [A-Z ]+-----\n/g) ?? [];
  if (code !== 0 || blocks.length !== 1 + 2 * names.length)
    throw new HpcsError('local', 'sandbox-failed', `openssl made no certificates: ${lastLines(stderr, 2)}`);
  const servers = names.map((name, index) => [
    name,
    { key: new Secret(blocks[1 + 2 * index] ?? ''), certificate: blocks[2 + 2 * index] ?? '' },
  ]);
  return { authority: blocks[0] ?? '', servers: Object.fromEntries(servers) as Record<Name, ServerCertificate> };
}

import type Docker from 'dockerode';
import { runContainer } from './container.ts';
import { Secret } from '../secret.ts';
import { lastLines, sandboxFailed } from './engine.ts';

/** A server's certificate (PEM) and its key. */
export interface ServerCertificate {
  certificate: string;
  key: Secret;
}

/** Keys of a sandbox. That of its authority is gone by the time these exist. */
export interface Keys<Name extends string> {
  /** PEM of the authority. */
  authority: string;
  servers: Record<Name, ServerCertificate>;
  /** What opens the accounts on the site: an OpenSSH private key, and its line of `authorized_keys`. */
  identity: { key: Secret; line: string };
}

// Everything lies in memory and ends with the container. Output: the authority, key and certificate of each name, SSH key pair.
// (The key generator of the ssh2 package makes one key in a hundred that nothing can read.)
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
ssh-keygen -q -t ed25519 -N '' -C hpcs-sandbox -f identity
cat identity identity.pub
rm -f ./*`;

/**
 * Makes, in a container, an authority with a certificate for each host name (valid for `localhost` and `127.0.0.1` too), and an
 * SSH key pair.
 *
 * @param image one with openssl, ssh-keygen and bash
 */
export async function makeKeys<Name extends string>(
  docker: Docker,
  image: string,
  names: readonly Name[],
  signal: AbortSignal | undefined,
): Promise<Keys<Name>> {
  const spec = {
    image,
    entrypoint: ['bash', '-c', script, 'bash'],
    command: names,
    host: { NetworkMode: 'none', CapDrop: ['ALL'] },
  };
  const { code, stdout, stderr } = await runContainer(docker, spec, signal);
  const blocks = stdout.toString('latin1').match(/-----BEGIN [A-Z ]+-----[^-]+-----END [A-Z ]+-----\n/g) ?? [];
  const line = /^ssh-ed25519 .*$/m.exec(stdout.toString('latin1'))?.[0];
  if (code !== 0 || blocks.length !== 2 + 2 * names.length || line === undefined)
    throw sandboxFailed(`cannot make the keys of the sandbox: ${lastLines(stderr, 2)}`);
  const servers = names.map((name, index) => [
    name,
    { key: new Secret(blocks[1 + 2 * index] ?? ''), certificate: blocks[2 + 2 * index] ?? '' },
  ]);
  return {
    authority: blocks[0] ?? '',
    servers: Object.fromEntries(servers) as Record<Name, ServerCertificate>,
    identity: { key: new Secret(blocks.at(-1) ?? ''), line },
  };
}

import type { Config } from '../config.ts';
import { HpcsError } from '../errors.ts';
import type { SecretAccess } from '../hpcs.ts';
import { openIdentity } from '../identity/client-identity.ts';
import type { ClientIdentity } from '../identity/identity.ts';
import { openServices, type Services } from '../services.ts';

/** This client as the owner of artefacts, towards the HPCS server. */
export interface Owner extends AsyncDisposable {
  services: Services;
  identity: ClientIdentity;
}

/**
 * Opens this client's identity and the HPCS server.
 *
 * @throws HpcsError `identity`; code `no-access-calls` for a server that cannot show, add or take back grants
 */
export async function openOwner(
  config: Config,
  { signal, progress }: { signal: AbortSignal; progress: (line: string) => void },
): Promise<Owner> {
  await using cleanup = new AsyncDisposableStack();
  const services = cleanup.use(await openServices(config));
  if (!(await services.server.capabilities(signal)).includes('access')) {
    throw new HpcsError('identity', 'no-access-calls', 'the HPCS server cannot show or change who may use an artefact', {
      suggestion: 'ask those who run the server for a current one',
    });
  }
  const identity = cleanup.use(await openIdentity(config, { signal, progress }));
  const owned = cleanup.move();
  return { services, identity, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Who may use a secret, in words, one grant a line. */
export function describeAccess({ secret_path, grants, readers }: SecretAccess): string[] {
  const lines = [secret_path, `  ${secret_path.split('/')[0] ?? ''} (its owner)`];
  for (const grant of grants) {
    const who = [
      ...grant.clients.map(({ id, name }) => (name === null ? `client ${id} (removed)` : `client ${name} (${id})`)),
      ...grant.groups.map((group) => `group ${group}`),
    ];
    const conditions = [
      ...(grant.image === undefined ? [] : [`with the image ${grant.image.slice(0, 16)}… only`]),
      ...(grant.until === undefined ? [] : [`${new Date(grant.until) > new Date() ? 'until' : 'ended'} ${grant.until}`]),
      ...(grant.jobs === undefined ? [] : [`${grant.used} of ${grant.jobs} jobs used`]),
    ];
    lines.push(`  grant ${grant.id}: ${[who.join(', '), ...conditions].join('; ')}`);
  }
  for (const { node, selector } of readers) lines.push(`  agent mode: ${selector} on ${node}`);
  return lines;
}

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HpcsError } from './errors.ts';

/** The directory of the package, from source and from a build, also within an image of the server. */
export function packageRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'docker', 'server', 'hpcs-server.policy.hcl'))) {
    const above = dirname(directory);
    if (above === directory) throw new HpcsError('bug', 'package-incomplete', 'the package lacks docker/server');
    directory = above;
  }
  return directory;
}

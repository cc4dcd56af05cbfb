import { loadConfig } from '../../src/config.ts';
import { quote } from '../../src/shell.ts';
import { containerOf, type Site } from './site.ts';

/**
 * Runs a program within the HPCS server's container, since nothing else reaches SPIRE's admin socket.
 *
 * @param code finds `spire` and the trust domain as `td`, and prints JSON
 * @returns what it printed
 */
export async function insideServer(site: Site, code: string): Promise<unknown> {
  const config = await loadConfig(site.configuration);
  const program = `import { Spire } from '/app/src/server/spire.ts'; using spire = new Spire('/run/spire-admin/api.sock'); const td = '${config['spire-server']['trust-domain']}';\n${code}`;
  const ran = await site.run(`node --input-type=module-typescript -e ${quote(program)}`, '', containerOf('hpcsServer'));
  if (ran.code !== 0) throw new Error(ran.stderr);
  return JSON.parse(ran.stdout);
}

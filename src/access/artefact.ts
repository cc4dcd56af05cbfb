import { Catalogue } from '../catalogue.ts';
import type { Config } from '../config.ts';
import { HpcsError } from '../errors.ts';
import { readArtefact } from '../job/artefacts.ts';
import { parseInfoRecord } from '../record.ts';
import { connect } from '../site/connect.ts';
import { readFile } from '../site/files.ts';
import type { Transport } from '../site/transport.ts';
import { stateDirectory } from '../state.ts';

/** What {@link namedSecret} and {@link imageDigest} work with. */
export interface NamingContext {
  config: Config;
  signal: AbortSignal;
  warn: (line: string) => void;
}

/** What is done about a secret that the site alone names: it is warned of, or refused where nobody could still stop what follows. */
export type Unconfirmed = 'warn' | 'refuse';

/**
 * The secret that an argument names: `client_<id>/<secret>` itself, or the path of an info record on the site.
 *
 * @throws HpcsError as {@link shownSecret}; `usage` for what is neither
 */
export async function namedSecret(
  named: string,
  { config, signal, warn }: NamingContext,
  unconfirmed: Unconfirmed = 'warn',
): Promise<string> {
  if (/^client_[0-9a-f]{9}\/[A-Za-z0-9._-]+$/.test(named)) return named;
  if (!named.startsWith('/')) {
    throw new HpcsError('usage', 'bad-artefact', `${JSON.stringify(named)} names no artefact`, {
      suggestion: 'give the absolute path of its info record on the site, or its secret: client_<id>/<secret>',
    });
  }
  await using transport = await connect(config, { signal });
  const catalogue = new Catalogue(await stateDirectory(config));
  return await shownSecret(transport, named, { catalogue, site: config.supercomputer.address, unconfirmed, warn, signal });
}

/**
 * The secret that an info record on the site names.
 *
 * The site may have put another of the owner's there: where this client remembers having published under the same path, both must name
 * the same; elsewhere the site alone says so.
 *
 * @throws HpcsError `site`; `usage` `artefact-unconfirmed`; `integrity` `artefact-rolled-back`
 */
export async function shownSecret(
  transport: Transport,
  path: string,
  options: { catalogue: Catalogue; site: string; unconfirmed: Unconfirmed; warn: (line: string) => void; signal: AbortSignal },
): Promise<string> {
  const { catalogue, site, unconfirmed, warn, signal } = options;
  const bytes = await readFile(transport, path, { maxBytes: 65_536, signal });
  const { secret_path: found } = parseInfoRecord(Buffer.from(bytes).toString('utf8'), path);
  const known = await catalogue.newest(site, path);
  if (known?.secretPath === found) return found;
  if (known !== undefined) {
    throw new HpcsError(
      'integrity',
      'artefact-rolled-back',
      `${path} names ${found}, and what was last published there from here (${known.created}) is ${known.secretPath}`,
      { suggestion: 'give the one that you mean in place of the path' },
    );
  }
  const fact = `${path} was not published from here: the site alone says that its secret is ${found}`;
  const check = `hpcs access list ${path} shows the right one on the machine that published it, as --json did then`;
  if (unconfirmed === 'refuse') {
    throw new HpcsError('usage', 'artefact-unconfirmed', fact, {
      suggestion: `${check}: give that in place of the path, client_<id>/<name>`,
    });
  }
  warn(`${fact}; ${check}`);
  return found;
}

/**
 * The SHA-512 of a sealed image: as it is given, or from the info record at a path on the site, which a digest behind `#sha512:` pins.
 *
 * @throws HpcsError as `readArtefact`
 */
export async function imageDigest(named: string, { config, signal, warn }: NamingContext): Promise<string> {
  const [, digest] = /^(?:sha512:)?([0-9a-fA-F]{128})$/.exec(named) ?? [];
  if (digest !== undefined) return digest.toLowerCase();
  await using transport = await connect(config, { signal });
  const catalogue = new Catalogue(await stateDirectory(config));
  const options = { catalogue, site: config.supercomputer.address, allowLegacy: false, signal };
  const { info, confirmed } = await readArtefact(transport, 'image', named, options);
  if (!confirmed) {
    warn(
      `the image was not published from here: the site alone says that its SHA-512 is ${info.checksum}; compare it with what its owner tells you`,
    );
  }
  return info.checksum;
}

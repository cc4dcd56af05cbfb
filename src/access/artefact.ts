import { Catalogue } from '../catalogue.ts';
import type { Config } from '../config.ts';
import { HpcsError } from '../errors.ts';
import { readArtefact } from '../job/artefacts.ts';
import { parseInfoRecord } from '../record.ts';
import { connect } from '../site/connect.ts';
import { readFile } from '../site/files.ts';
import { stateDirectory } from '../state.ts';

/** What {@link namedSecret} and {@link imageDigest} work with. */
export interface NamingContext {
  config: Config;
  signal: AbortSignal;
  warn: (line: string) => void;
}

/**
 * The secret that an argument names: `client_<id>/<secret>` itself, or the path of an info record on the site.
 *
 * The site may have altered that: where this client remembers having published under the same path, both must name the same.
 *
 * @throws HpcsError `usage`, `site`; `integrity` `artefact-rolled-back`
 */
export async function namedSecret(named: string, { config, signal }: NamingContext): Promise<string> {
  if (/^client_[0-9a-f]{9}\/[A-Za-z0-9._-]+$/.test(named)) return named;
  if (!named.startsWith('/')) {
    throw new HpcsError('usage', 'bad-artefact', `${JSON.stringify(named)} names no artefact`, {
      suggestion: 'give the absolute path of its info record on the site, or its secret: client_<id>/<secret>',
    });
  }
  await using transport = await connect(config, { signal });
  const bytes = await readFile(transport, named, { maxBytes: 65_536, signal });
  const { secret_path: found } = parseInfoRecord(Buffer.from(bytes).toString('utf8'), named);
  const known = await new Catalogue(await stateDirectory(config)).newest(config.supercomputer.address, named);
  if (known === undefined || known.secretPath === found) return found;
  throw new HpcsError(
    'integrity',
    'artefact-rolled-back',
    `${named} names ${found}, and what was last published there from here (${known.created}) is ${known.secretPath}`,
    { suggestion: 'give the one that you mean in place of the path' },
  );
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

import { Catalogue } from '../catalogue.ts';
import { HpcsError } from '../errors.ts';
import { isOriginal, parseInfoRecord, type InfoRecord } from '../record.ts';
import { readFile, sha512, stat } from '../site/files.ts';
import type { Transport } from '../site/transport.ts';
import type { PlannedArtefact } from './plan.ts';

/** Up to this many sealed bytes the digest is taken at submission too; above it the job alone takes it. */
const digestAtSubmission = 1024 ** 3;

/** An artefact named on the command line, as its info record and the site show it. */
export interface NamedArtefact {
  kind: 'image' | 'data';
  info: InfoRecord;
  planned: PlannedArtefact;
  /** Whether the caller pinned it, or published it from here: else the site alone says that it is the right one. */
  confirmed: boolean;
  /** Whether the original prepared it, whose vault record does not say what its bytes must be. */
  original: boolean;
}

/**
 * Reads an info record on the site and holds it against the file beside it, the pin and the local catalogue.
 *
 * @param named path of the info record on the site, optionally followed by `#sha512:` and the digest the caller expects
 * @param options.allowLegacy take artefacts of the original, of which the vault cannot say what their bytes must be
 * @throws HpcsError `integrity` for whatever does not agree, `site` for what is missing, `usage` for an artefact of the original's
 */
export async function readArtefact(
  transport: Transport,
  kind: 'image' | 'data',
  named: string,
  options: { catalogue: Catalogue; site: string; allowLegacy: boolean; signal: AbortSignal },
): Promise<NamedArtefact> {
  const { path, pin } = parsePin(named);
  const info = parseInfoRecord(
    Buffer.from(await readFile(transport, path, { maxBytes: 65_536, signal: options.signal })).toString('utf8'),
    path,
  );
  if (info.kind !== undefined && info.kind !== kind) {
    throw new HpcsError(
      'integrity',
      'artefact-swapped',
      `${path} is the info record of ${info.kind === 'image' ? 'an image' : 'data'}, not of ${kind === 'image' ? 'an image' : 'data'}`,
      {
        suggestion: '-ai takes the info record of the image, -di that of the data',
      },
    );
  }
  if (pin !== undefined && pin !== info.checksum) {
    throw new HpcsError(
      'integrity',
      'pin-mismatch',
      `${path} names an artefact with another SHA-512 than the one given behind #sha512:`,
      { suggestion: `if the SHA-512 is right, this is not the artefact that was meant: prepare the ${kind} again` },
    );
  }
  const original = isOriginal(info);
  if (original && !options.allowLegacy) throw originalRefused(kind, path);
  const known = await options.catalogue.newest(options.site, path);
  if (known?.sha512 === info.checksum && known.secretPath !== info.secret_path) {
    throw new HpcsError(
      'integrity',
      'artefact-repointed',
      `${path} names another secret (${info.secret_path}) for the artefact that was published from here with ${known.secretPath}: somebody has altered it`,
      { suggestion: `write the right secret_path into it, with its access_role and spiffeID, or prepare the ${kind} again` },
    );
  }
  if (pin === undefined && known !== undefined && known.sha512 !== info.checksum) {
    throw new HpcsError(
      'integrity',
      'artefact-rolled-back',
      `${path} no longer names the artefact that was last published from here (${known.created}): it was rolled back, altered, or published anew by somebody else`,
      { suggestion: `prepare it again; or, if the other one is meant, say so: ${path}#sha512:${info.checksum}` },
    );
  }
  const size = await checkFile(transport, kind, info, options.signal);
  return {
    kind,
    info,
    confirmed: pin !== undefined || known !== undefined,
    original,
    planned: {
      path: info.path_at_rest,
      secretPath: info.secret_path,
      role: info.access_role,
      spiffeId: info.spiffeID,
      format: info.format,
      sha512: info.checksum,
      // The original's info record tells no size, and the job has to know what room it needs.
      ...(original ? { size, legacy: true } : info.size === undefined ? {} : { size: info.size }),
      ...(info.artefact === undefined ? {} : { artefact: info.artefact }),
    },
  };
}

/** Splits `PATH#sha512:DIGEST`. @throws HpcsError `usage` for a relative path or a digest of another form */
export function parsePin(named: string): { path: string; pin: string | undefined } {
  const [, path = named, digest] = /^(.*?)#sha512:(.*)$/su.exec(named) ?? [];
  if (!path.startsWith('/')) {
    throw new HpcsError('usage', 'bad-path', `the info record ${path} is not an absolute path on the site`, {
      suggestion: 'give the path that container-prep or data-prep reported',
    });
  }
  const pin = digest?.toLowerCase();
  if (pin === undefined || /^[0-9a-f]{128}$/.test(pin)) return { path, pin };
  throw new HpcsError('usage', 'bad-pin', `what stands behind #sha512: in ${path}#… is not a SHA-512 digest in hex`, {
    suggestion: 'give all 128 characters, as sha512sum prints them',
  });
}

function originalRefused(kind: string, path: string): HpcsError {
  return new HpcsError(
    'usage',
    'legacy-artefact',
    `${path} is the info record of ${kind === 'image' ? 'an image' : 'data'} that the original HPCS prepared: the vault does not say what its bytes must be`,
    { suggestion: 'prepare it again; or run it as it is, unchecked by the vault, with --allow-legacy-image' },
  );
}

/** @returns the size of the file, in bytes */
async function checkFile(transport: Transport, kind: string, info: InfoRecord, signal: AbortSignal): Promise<number> {
  const found = await stat(transport, info.path_at_rest, { signal });
  if (found === undefined) {
    throw new HpcsError('site', 'artefact-missing', `the ${kind} ${info.path_at_rest} is not on the site`, {
      suggestion: 'prepare it again, or correct the path of its info record',
    });
  }
  const altered = (what: string): HpcsError =>
    new HpcsError(
      'integrity',
      'artefact-altered',
      `the ${kind} ${info.path_at_rest} is not the one in its info record: ${what}`,
      {
        suggestion: 'prepare it again, and tell the site',
      },
    );
  if (info.size !== undefined && found.size !== info.size) throw altered(`it has ${found.size} bytes, not ${info.size}`);
  if (found.size > digestAtSubmission) return found.size;
  if ((await sha512(transport, info.path_at_rest, { signal })) !== info.checksum) throw altered('its SHA-512 differs');
  return found.size;
}

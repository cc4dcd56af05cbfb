import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { shownSecret, type Unconfirmed } from '../../../src/access/artefact.ts';
import { Catalogue } from '../../../src/catalogue.ts';
import { renderInfoRecord } from '../../../src/record.ts';
import { LocalTransport } from '../../support/local-transport.ts';

describe('the secret of an artefact that is named by its path', () => {
  const { signal } = new AbortController();
  const secret = 'client_1a2b3c4d5/public-0';
  let directory: string;
  let path: string;
  let catalogue: Catalogue;
  let warnings: string[];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-access-'));
    path = join(directory, 'public.tgz.info.yaml');
    catalogue = new Catalogue(join(directory, 'state'));
    warnings = [];
    await show('public-0');
  });
  afterEach(() => rm(directory, { recursive: true }));

  const show = (name: string): Promise<void> =>
    writeFile(
      path,
      renderInfoRecord({
        path_at_rest: join(directory, 'public.tgz'),
        secret_path: `client_1a2b3c4d5/${name}`,
        access_role: `client_1a2b3c4d5-${name}`,
        checksum: 'a'.repeat(128),
        spiffeID: `spiffe://example.org/c/1a2b3c4d5/s/${name}`,
        format: 'openpgp',
      }),
    );
  const remember = (): Promise<void> =>
    catalogue.add({ site: 'lumi', info: path, artefact: '1'.repeat(32), secretPath: secret, sha512: '', created: '2026-01-01' });
  const named = (unconfirmed: Unconfirmed, site = 'lumi'): Promise<string> =>
    shownSecret(new LocalTransport(), path, { catalogue, site, unconfirmed, warn: (line) => void warnings.push(line), signal });

  it('is the one that was published from here, without a word', async () => {
    await remember();
    for (const unconfirmed of ['warn', 'refuse'] as const) assert.equal(await named(unconfirmed), secret);
    assert.deepEqual(warnings, []);
  });

  it('is no other than was published from here', async () => {
    await remember();
    await show('secret-0');
    for (const unconfirmed of ['warn', 'refuse'] as const)
      await assert.rejects(named(unconfirmed), { code: 'artefact-rolled-back', exitCode: 7 });
  });

  it('is warned of by its name where the site alone names it', async () => {
    await remember();
    await show('secret-0');
    assert.equal(await named('warn', 'another'), 'client_1a2b3c4d5/secret-0');
    assert.match(warnings.join('\n'), /^\/.* was not published from here: .* client_1a2b3c4d5\/secret-0; hpcs access list \/.*$/);
  });

  it('is refused there where nobody could still stop what follows', async () => {
    await show('secret-0');
    await assert.rejects(named('refuse'), {
      code: 'artefact-unconfirmed',
      exitCode: 2,
      message: /the site alone says that its secret is client_1a2b3c4d5\/secret-0$/,
      suggestion: /^hpcs access list \/.*: give that in place of the path, client_<id>\/<name>$/,
    });
    assert.deepEqual(warnings, []);
  });
});

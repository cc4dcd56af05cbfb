import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, rmdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HpcsError } from '../../src/errors.ts';
import { afterwards, publishInfo } from '../../src/publish.ts';
import { renderInfoRecord, type InfoRecord } from '../../src/record.ts';
import { fileError } from '../../src/site/files.ts';
import { connectionLost } from '../../src/site/ssh-errors.ts';
import type { Transport } from '../../src/site/transport.ts';
import { FailingTransport, isRename } from '../support/failing-transport.ts';
import { LocalTransport } from '../support/local-transport.ts';

const info: InfoRecord = {
  path_at_rest: '/scratch/data.tgz',
  secret_path: 'client_c/data',
  access_role: '',
  checksum: 'a'.repeat(128),
  spiffeID: 'spiffe://t/c',
  format: 'openpgp',
};

describe('what an info record names', () => {
  let directory: string;
  let path: string;
  let taken: boolean;
  let warnings: string[];
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-publish-'));
    path = join(directory, 'data.tgz.info.yaml');
    [taken, warnings] = [false, []];
  });
  afterEach(() => rm(directory, { recursive: true }));

  const publish = async (transport: Transport): Promise<void> => {
    await using unpublished = new AsyncDisposableStack();
    unpublished.defer(() => void (taken = true));
    await publishInfo(transport, path, info, unpublished, { warn: (line) => void warnings.push(line) });
  };
  /** Fails the rename alone. */
  const failing = (error: HpcsError, done: boolean): Transport =>
    new FailingTransport((script) => (isRename(script) ? { error, done } : undefined));

  it('stays once that is published, in place of an earlier one', async () => {
    await writeFile(path, 'earlier');
    await publish(new LocalTransport());
    assert.equal(await readFile(path, 'utf8'), renderInfoRecord(info));
    assert.deepEqual([taken, warnings], [false, []]);
  });

  it('is taken back when the site refuses the record', async () => {
    await mkdir(path);
    await assert.rejects(publish(new LocalTransport()), { code: 'site-is-directory' });
    assert.equal(taken, true);
    await rmdir(path);
    // Not before the rename.
    const late = new FailingTransport((script) => {
      if (isRename(script)) mkdirSync(path);
      return undefined;
    });
    taken = false;
    await assert.rejects(publish(late), { code: 'site-is-directory' });
    assert.equal(taken, true);
    assert.deepEqual(warnings, []);
    assert.deepEqual(await readdir(directory), ['data.tgz.info.yaml']);
  });

  // A session that the site ends gives neither an exit code nor a word.
  for (const error of [connectionLost('h', undefined), fileError('publish', 'x', '', null)]) {
    for (const done of [true, false]) {
      it(`stays when nobody knows whether that was published, and it was${done ? '' : ' not'}: ${error.code}`, async () => {
        await assert.rejects(publish(failing(error, done)), { code: error.code });
        assert.equal(taken, false);
        assert.equal(warnings.length, 1);
        const [warning = ''] = warnings;
        assert.ok(warning.startsWith(`whether ${path} names /scratch/data.tgz by now is not known: file and key stay`), warning);
        assert.ok(warning.endsWith(`hpcs access destroy ${info.secret_path}`), warning);
        assert.deepEqual(await readdir(directory), done ? ['data.tgz.info.yaml'] : []);
      });
    }
  }
});

describe('what comes when all is published', () => {
  const published = { path: '/s/d.tgz', info: '/s/d.tgz.info.yaml', sha512: 'a', size: 1, secretPath: 'c/d' };
  const full = (): Promise<void> => Promise.reject(new Error('no space'));

  it('adds to what is told of it', async () => {
    assert.deepEqual(await afterwards(published, { a: async () => ({ copy: 'd.tgz' }), b: async () => undefined }), { ...published, copy: 'd.tgz' }); // prettier-ignore
  });

  it('is done though one step fails, which is said with what is published', async () => {
    const steps = { 'it is not remembered here': full, 'no copy is kept': async () => ({ copy: 'd.tgz' }) };
    await assert.rejects(afterwards(published, steps), {
      code: 'published-only',
      message: '/s/d.tgz is published, but it is not remembered here: no space',
      result: { ...published, copy: 'd.tgz' },
    });
  });

  it('names all that failed', async () => {
    await assert.rejects(afterwards(published, { one: full, two: full }), { message: '/s/d.tgz is published, but one: no space; two: no space' }); // prettier-ignore
  });
});

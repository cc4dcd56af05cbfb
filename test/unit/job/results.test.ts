import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { renderManifest, type ResultManifest } from '../../../src/job/manifest.ts';
import { openResults } from '../../../src/job/results.ts';
import type { SubmittedRecord } from '../../../src/job/store.ts';
import { tarOf } from '../../../src/pack/tar.ts';
import { generateKey } from '../../../src/seal/keys.ts';
import { seal } from '../../../src/seal/seal.ts';
import { Secret } from '../../../src/secret.ts';
import type { RemoteProcess, Transport } from '../../../src/site/transport.ts';
import { collect, failsWith, inPieces } from '../../support/streams.ts';

describe('results', () => {
  const { signal } = new AbortController();
  const hash = '0'.repeat(128);
  const job = { jobId: '7', name: 'n', workdir: '/w', image: { sha512: hash }, data: { sha512: hash }, authenticationKey: new Secret('a'.repeat(64)) } as SubmittedRecord; // prettier-ignore
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-results-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  const sealedFor = async (owner: string, content: Uint8Array | string): Promise<Buffer> => {
    const archive = tarOf([
      { name: 'output', type: 'directory' },
      { name: 'output/file', content },
    ]);
    return collect(seal(inPieces(archive), { format: 'age', recipients: [owner], compress: 'none' }).bytes);
  };
  const manifestOf = (result: ResultManifest['result']): string =>
    renderManifest(
      { version: 1, job: { id: '7', name: 'n', restart: 0 }, image: { artefact: 'i', sha512: hash }, data: { artefact: 'd', sha512: hash }, flags: [], exitCode: 0, partial: null, result, finished: new Date().toISOString() },
      job.authenticationKey,
    ); // prettier-ignore

  /** A site that answers so, command by command, and how many bytes of the last answer were taken. */
  const siteOf = (...answers: Uint8Array[]): Transport & { taken: number } => ({
    taken: 0,
    exec(): RemoteProcess {
      const answer = answers.shift() ?? assert.fail('one command too many');
      this.taken = 0;
      const count = (bytes: number): number => (this.taken += bytes);
      const stdout = async function* (): AsyncGenerator<Uint8Array> {
        for await (const piece of inPieces(answer)) {
          count(piece.length);
          yield piece;
        }
      };
      return { stdout: stdout(), finished: Promise.resolve({ code: 0, stderr: '' }), [Symbol.asyncDispose]: async () => {} };
    },
    async [Symbol.asyncDispose]() {},
  });

  it('that the site made larger, as anybody can, are not read beyond the size of their manifest', async () => {
    const key = await generateKey('age');
    job.resultKey = key.secretKey;
    const own = await sealedFor(key.publicKey, 'mine');
    const manifest = manifestOf({ sha512: hash, size: own.length, format: 'age' });
    const site = siteOf(
      Buffer.from('0 whole\n'),
      Buffer.from(manifest),
      await sealedFor(key.publicKey, Buffer.alloc(32 * 1024 * 1024)),
    );
    const opening = openResults(site, job, join(directory, 'results'), { signal });
    await assert.rejects(opening, failsWith('integrity', 'results-altered'));
    assert.ok(site.taken <= own.length + 65536, `took ${site.taken} bytes`);
    assert.deepEqual(await readdir(directory), []);
  });

  it('that expand to more than the job sealed are not unpacked beyond that', async () => {
    const key = await generateKey('age');
    job.resultKey = key.secretKey;
    const archive = tarOf([
      { name: 'output', type: 'directory' },
      { name: 'output/file', content: Buffer.alloc(8 * 1024 * 1024) },
    ]);
    const { bytes, summary } = seal(inPieces(archive), { format: 'age', recipients: [key.publicKey], compress: 'zstd' });
    const sealed = await collect(bytes);
    assert.ok(sealed.length < archive.length / 100);
    const attempt = async (plain: number): Promise<ResultManifest> => {
      const manifest = manifestOf({ ...(await summary), plain, format: 'age' });
      const site = siteOf(Buffer.from('0 whole\n'), Buffer.from(manifest), sealed);
      return openResults(site, job, join(directory, 'results'), { signal });
    };
    await assert.rejects(attempt(archive.length - 1), failsWith('integrity', 'results-altered'));
    assert.deepEqual(await readdir(directory), []);
    await attempt(archive.length);
    assert.deepEqual(await readdir(directory), ['results']);
  });
});

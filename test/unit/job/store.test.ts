import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { JobStore, type JobRecord } from '../../../src/job/store.ts';
import { Secret } from '../../../src/secret.ts';

function record(digit: string, changes: Partial<JobRecord> = {}): JobRecord {
  return {
    version: 1,
    local: digit.repeat(32),
    site: 'lumi',
    username: 'alice',
    name: 'hpcs',
    workdir: '/scratch',
    created: `2026-01-0${digit}T00:00:00.000Z`,
    image: { sha512: 'a' },
    data: { sha512: 'b' },
    format: 'openpgp',
    resultKey: new Secret('secret'),
    authenticationKey: new Secret('0'.repeat(64)),
    ...changes,
  };
}

describe('job store', () => {
  let directory: string;
  let store: JobStore;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-store-'));
    store = new JobStore(directory);
  });
  afterEach(() => rm(directory, { recursive: true }));

  it('keeps a record over its states, in one private file', async () => {
    await store.save(record('1'));
    await store.save(record('1', { jobId: '77' }));
    const found = await new JobStore(directory).find('77', 'lumi');
    assert.deepEqual(found, record('1', { jobId: '77' }));
    assert.deepEqual([found.resultKey.reveal(), found.authenticationKey.reveal()], ['secret', '0'.repeat(64)]);
    assert.doesNotMatch(JSON.stringify(found), /secret"|0{64}/);
    assert.deepEqual(await readdir(join(directory, 'jobs')), [`${'1'.repeat(32)}.json`]);
    assert.equal((await stat(join(directory, 'jobs', `${'1'.repeat(32)}.json`))).mode & 0o777, 0o600);
  });

  it('lists the newest first', async () => {
    for (const digit of ['2', '3', '1']) await store.save(record(digit));
    assert.deepEqual(
      (await store.list()).map(({ local }) => local[0]),
      ['3', '2', '1'],
    );
  });

  it('finds the newest of a job id that the scheduler gave twice, at the right site', async () => {
    await store.save(record('1', { jobId: '77' }));
    await store.save(record('3', { jobId: '77' }));
    await store.save(record('2', { jobId: '77' }));
    await store.save(record('4', { jobId: '77', site: 'puhti' }));
    assert.equal((await store.find('77', 'lumi')).local[0], '3');
  });

  it('says where it looked for a job that it does not know', async () => {
    await store.save(record('1'));
    await assert.rejects(store.find('78', 'lumi'), {
      code: 'job-unknown',
      exitCode: 2,
      message: `job 78 on lumi was not submitted from this state directory (${directory}/jobs)`,
      suggestion: /HPCS_STATE_DIR/,
    });
  });

  it('does not believe a record whose authentication key is cut short', async () => {
    await store.save(record('1', { jobId: '77' }));
    await writeFile(
      join(directory, 'jobs', `${'1'.repeat(32)}.json`),
      JSON.stringify({ ...record('1', { jobId: '77' }), resultKey: 'secret', authenticationKey: '0'.repeat(63) }),
    );
    await assert.rejects(store.find('77', 'lumi'), { code: 'job-unknown' });
  });
});

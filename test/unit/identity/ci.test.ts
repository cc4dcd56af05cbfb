import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { forgetEnded, lasting } from '../../../src/identity/ci.ts';
import type { Session } from '../../../src/identity/login.ts';
import { generateProofKey } from '../../../src/identity/proof.ts';

const hour = 3_600_000;
const name = (digit: string): string => `ci-${digit.repeat(32)}`;

describe('sessions of CI jobs', () => {
  let directory: string;
  beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'hpcs-ci-'))));
  afterEach(() => rm(directory, { recursive: true }));

  /** @param age hours since it was written */
  const put = async (file: string, age: number, content = '{}'): Promise<void> => {
    await writeFile(join(directory, file), content);
    const time = new Date(Date.now() - age * hour);
    await utimes(join(directory, file), time, time);
  };
  /** @param ended hours since its session ended */
  const session = async (digit: string, ended: number, age = ended + 1): Promise<void> => {
    const key = await generateProofKey();
    const expires = new Date(Date.now() - ended * hour).toISOString();
    const content = { version: 1, server: 's', trustDomain: 't', clientId: '0123456af', spiffeId: 'x', name: 'n', expires, key };
    await put(`${name(digit)}.json`, age, JSON.stringify(content));
    await put(`${name(digit)}.key`, age, JSON.stringify(key));
  };

  it('are deleted when no token brings their key back, and not before', async () => {
    await session('a', 26);
    // Over, but its job may go on, with the same token and key.
    await session('b', 1, 2);
    await session('c', 23);
    // Under way.
    await session('d', -1, 30);
    // Refused at the login: a key alone.
    await put(`${name('e')}.key`, 26);
    await put(`${name('f')}.key`, 1);
    // What killed commands left.
    await put(`${name('1')}.key.0123456789ab`, 26);
    await put(`${name('1')}.key.0123456789ab.0123456789ab.tmp`, 26);
    await put(`${name('2')}.json.0123456789ab.tmp`, 26);
    await put(`${name('3')}.key.0123456789ab`, 0);
    await forgetEnded(directory);
    const left = ['b', 'c', 'd'].flatMap((digit) => [`${name(digit)}.json`, `${name(digit)}.key`]);
    assert.deepEqual(await readdir(directory), [...left, `${name('f')}.key`, `${name('3')}.key.0123456789ab`].toSorted());
  });

  it('are the only files that are deleted, and what cannot be read stays', async () => {
    const others = ['client-key.json', 'client-login.json', 'ci-notes.key', `${name('a')}.key.bak`, `x${name('a')}.key`, 'ci-A.json', `${name('b').slice(0, -1)}.key`]; // prettier-ignore
    for (const file of others) await put(file, 1000);
    await put(`${name('c')}.json`, 1000, 'damaged');
    await put(`${name('c')}.key`, 1000);
    await mkdir(join(directory, `${name('d')}.key`));
    await forgetEnded(directory);
    assert.deepEqual(
      await readdir(directory),
      [...others, `${name('c')}.json`, `${name('c')}.key`, `${name('d')}.key`].toSorted(),
    );
    await forgetEnded(join(directory, 'nowhere'));
  });

  it('are renewed in their last minute, and good to their end where they cannot be', async () => {
    const key = (await generateProofKey()) as { kty: string; crv: string; x: string; y: string; d: string };
    const ends = (seconds: number): Session => {
      const expires = new Date(Date.now() + seconds * 1000).toISOString();
      return { version: 1, server: 's', trustDomain: 't', clientId: '0123456af', spiffeId: 'x', name: 'n', expires, key };
    };
    const { signal } = new AbortController();
    const [long, short, over, renewed] = [ends(300), ends(50), ends(-1), ends(3600)];
    const refuses = (): Promise<Session> => Promise.reject(new Error('the token is over'));
    assert.equal(await lasting(long, () => assert.fail(), signal), long);
    assert.equal(await lasting(short, async () => renewed, signal), renewed);
    assert.equal(await lasting(short, refuses, signal), short);
    assert.equal(await lasting(undefined, async () => renewed, signal), renewed);
    await assert.rejects(lasting(over, refuses, signal), /the token is over/);
    await assert.rejects(lasting(undefined, refuses, signal), /the token is over/);
    await assert.rejects(lasting(short, refuses, AbortSignal.abort(new Error('ended'))), /ended/);
    // With the signal of who asks: what is taken back after an interruption may need another session.
    await lasting(short, async (given) => (assert.equal(given, signal), renewed), signal);
  });
});

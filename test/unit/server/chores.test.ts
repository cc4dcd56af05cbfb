import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import { mock } from 'node:test';
import { HpcsError } from '../../../src/errors.ts';
import { Chores, type ChoreTimes } from '../../../src/server/chores.ts';
import { Store, eachOf } from '../../../src/server/store.ts';
import { SmallVault } from '../../support/small-vault.ts';

const times: ChoreTimes = { interval: 1000, grace: 10 };
const patient: ChoreTimes = { interval: 1000, grace: 600_000 };
const names = Array.from({ length: 1000 }, (_, n) => String(n));
const nobody = (error: unknown): void => assert.fail(String(error));

describe('rounds of chores', () => {
  beforeEach(() => mock.timers.enable({ apis: ['setInterval'] }));
  afterEach(() => mock.timers.reset());

  /** The time of the next round comes. */
  const due = async (): Promise<void> => {
    mock.timers.tick(times.interval);
    await setImmediate();
  };

  it('come now and then, one failure keeping no other chore from its turn, and none while one is under way', async () => {
    const done: string[] = [];
    const failures: unknown[] = [];
    let { promise, resolve } = Promise.withResolvers<void>();
    const first = async (): Promise<void> => {
      done.push('first');
      throw new Error('not now');
    };
    const second = async (): Promise<void> => {
      done.push('second');
      await promise;
    };
    await using _chores = new Chores([first, second], (error) => failures.push(error), times);
    for (let round = 0; round < 5; round++) await due();
    assert.deepEqual(done, ['first', 'second']);
    assert.equal(failures.length, 1);
    resolve();
    await setImmediate();
    ({ promise, resolve } = Promise.withResolvers<void>());
    assert.deepEqual(done, ['first', 'second']);
    for (let round = 0; round < 5; round++) await due();
    assert.deepEqual(done, ['first', 'second', 'first', 'second']);
    resolve();
  });

  it('are over at the end of the server, which waits for the requests under way and for no further record', async () => {
    const begun: string[] = [];
    let ended = 0;
    const { promise, resolve } = Promise.withResolvers<void>();
    const chore = (): Promise<void> =>
      eachOf(names, async (name) => {
        begun.push(name);
        await promise;
        ended += 1;
      });
    const chores = new Chores([chore, chore], nobody, patient);
    await due();
    assert.equal(begun.length, 8);
    const disposed = chores[Symbol.asyncDispose]();
    await setImmediate();
    assert.equal(ended, 0);
    resolve();
    await disposed;
    assert.deepEqual([begun.length, ended], [8, 8]);
    // What is done for a caller goes on.
    await eachOf(names, async (name) => void begun.push(name));
    assert.equal(begun.length, 1008);
    await due();
    assert.equal(ended, 8);
  });

  it('do not keep the server from its end where nobody answers', async () => {
    const chores = new Chores([() => new Promise(() => undefined)], nobody, times);
    await due();
    await chores[Symbol.asyncDispose]();
  });

  it('are over when the vault is away: no further record is tried, and no further chore', async () => {
    const vault = new SmallVault();
    for (const name of names) vault.put(`hpcs-server/things/${name}`, {});
    vault.refuse = (method) => {
      if (method === 'DELETE') throw new HpcsError('identity', 'unreachable', 'the vault does not answer');
      return undefined;
    };
    const store = new Store(vault.admin);
    const told = Promise.withResolvers<HpcsError>();
    const chore = async (): Promise<void> => {
      // As chores are: some records within others.
      await eachOf(['things', 'others'], async (place) => {
        await eachOf(await store.list('things'), (name) => store.remove(`things/${place}/${name}`));
      }, 1); // prettier-ignore
    };
    await using _chores = new Chores([chore, async () => nobody('a further chore')], (error) => told.resolve(error as HpcsError), times); // prettier-ignore
    await due();
    assert.equal((await told.promise).code, 'unreachable');
    assert.equal(vault.asked.filter((request) => request.startsWith('DELETE')).length, 8);
    assert.equal(vault.asked.filter((request) => request.startsWith('LIST')).length, 1);
  });

  it('go on past a record that fails, and tell first that the vault went away', async () => {
    const done: string[] = [];
    const chore = async (name: string): Promise<void> => {
      done.push(name);
      if (name === '3') throw new HpcsError('identity', 'record-form', 'of another form');
      if (name === '5') throw new HpcsError('identity', 'unreachable', 'cannot reach the vault');
    };
    await assert.rejects(eachOf(names, chore, 1), (error: HpcsError) => {
      assert.deepEqual([error.code, error.message], ['unreachable', '2 records failed, first: cannot reach the vault']);
      return true;
    });
    assert.deepEqual(done, names.slice(0, 6));
  });
});

import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import { z } from 'zod';
import { HpcsError } from '../../../src/errors.ts';
import { clientToken, lonelyApi } from '../../support/api.ts';
import { refused } from '../../support/refused.ts';
import { SmallVault } from '../../support/small-vault.ts';
import { Clients } from '../../../src/server/clients.ts';
import { Jobs } from '../../../src/server/jobs.ts';
import { Permissions } from '../../../src/server/permissions.ts';
import { Spire } from '../../../src/server/spire.ts';
import { eachOf, Store } from '../../../src/server/store.ts';

describe('chores of the server', () => {
  const names = Array.from({ length: 100 }, (_, n) => String(n));

  it('are done a few at a time, each once', async () => {
    for (const [together, expected] of [
      [8, 8],
      [1, 1],
      [200, 100],
    ] as const) {
      const done: string[] = [];
      let [now, most] = [0, 0];
      await eachOf(names, async (name) => {
        now += 1;
        most = Math.max(most, now);
        await setImmediate();
        now -= 1;
        done.push(name);
      }, together); // prettier-ignore
      assert.equal(most, expected);
      assert.deepEqual(done.toSorted((a, b) => Number(a) - Number(b)), names); // prettier-ignore
    }
    await eachOf([], () => assert.fail());
  });

  it('that fail keep no other from its turn, and are all told at the end', async () => {
    const done: string[] = [];
    const chore = async (name: string): Promise<void> => {
      if (name.endsWith('7')) throw new Error(`not ${name}`);
      done.push(name);
    };
    await assert.rejects(eachOf(names, chore), (error: AggregateError) => {
      assert.equal(error.errors.length, 10);
      assert.match(error.message, /^10 records failed, first: not 7$/);
      return true;
    });
    assert.equal(done.length, 90);
  });

  it('that fail for a reason of ours are one error with it', async () => {
    const error = new HpcsError('identity', 'vault-sealed', 'the vault is sealed', { suggestion: 'unseal it' });
    await assert.rejects(
      eachOf(['a', 'b'], () => Promise.reject(error)),
      (told: HpcsError) => {
        assert.deepEqual([told.code, told.message, told.suggestion], ['vault-sealed', '2 records failed, first: the vault is sealed', 'unseal it']); // prettier-ignore
        return true;
      },
    );
  });
});

describe('records of a form that the server does not know', () => {
  const vault = new SmallVault();
  const store = new Store(vault.admin);
  const clients = new Clients(store, vault.admin, 'example.org');
  const permissions = new Permissions(store, clients);

  it('are named, with what differs and what to do, and not what stands in them', async () => {
    vault.put('hpcs-server/jobs/ab/abc', { client: 'x', state: 's3cr3t', inner: { number: 's3cr3t' } });
    const schema = z.object({ client: z.string(), state: z.enum(['waiting']), inner: z.object({ number: z.number() }) });
    await assert.rejects(store.read('jobs/ab/abc', schema), (error: HpcsError) => {
      assert.equal(error.code, 'record-form');
      assert.match(error.message, /record hpcs-server\/jobs\/ab\/abc in the vault .* does not know: state, inner\.number$/);
      assert.match(error.suggestion ?? '', /version of the server that wrote it, or remove .*delete -mount=kv hpcs-server\/jobs\/ab\/abc\) and submit its job again/); // prettier-ignore
      assert.doesNotMatch(JSON.stringify(error) + String(error.cause), /s3cr3t/);
      return true;
    });
    // An id that was given must stay taken.
    vault.put('hpcs-server/clients/0123456ae', []);
    await assert.rejects(clients.find('0123456ae'), ({ suggestion, message }: HpcsError) => {
      assert.match(message, /does not know: the whole of it$/);
      assert.equal(suggestion, 'run the version of the server that wrote it');
      return true;
    });
  });

  it('are told to who asks, and to the log, as a fault of nobody in particular', async () => {
    vault.put('hpcs-server/grants/0123456ae/x', { owner: '0123456ae', secret: 'x', grants: [{ clients: [] }] });
    const lines: string[] = [];
    const options = { trustDomain: 'example.org', audience: 'vault', audit: () => undefined, mostWaiting: 9 };
    const jobs = new Jobs(store, new Spire('/nonexistent/api.sock'), vault.admin, permissions, options);
    await using app = lonelyApi({ jobs, permissions, log: { write: (line) => void lines.push(line) } });
    const answer = await app.inject({
      method: 'POST',
      url: '/api/jobs',
      headers: { authorization: `Bearer ${await clientToken('hpcs-server', '0123456af')}` },
      payload: { job: '1', ticket: 'a'.repeat(64), artefacts: [{ role: 'data', secret_path: 'client_0123456ae/x' }] },
    });
    assert.equal(answer.statusCode, 500);
    assert.match(answer.body, /the record hpcs-server\/grants\/0123456ae\/x in the vault has a form/);
    assert.match(lines.join(''), /"code":"record-form".*"suggestion":"run the version .*grant it again/);
  });

  it('of one client keep nobody from removing another, and are told where all are listed', async () => {
    const created = new Date().toISOString();
    vault.put('hpcs-server/clients/0123456af', { id: '0123456af', identity: 'enrolled:a', name: 'a', groups: [], created });
    vault.put('hpcs-server/keys/aa', { owner: 'another form' });
    vault.put('hpcs-server/keys/zz', { client: '0123456af', created });
    vault.put('hpcs-server/enrolments/aa', 7);
    vault.put('hpcs-server/enrolments/zz', { name: 'a', groups: [], expires: created, key: null, client: '0123456af' });
    const told: string[] = [];
    const all = await clients.all(({ message }) => told.push(message));
    assert.deepEqual(all.map(({ id, keys }) => [id, keys]), [['0123456af', ['zz']]]); // prettier-ignore
    assert.equal(told.length, 2);
    assert.match(told.join(' '), /keys\/aa .*clients\/0123456ae /);
    await clients.remove('0123456af');
    assert.deepEqual([...vault.below('hpcs-server/keys/'), ...vault.below('hpcs-server/enrolments/')], ['hpcs-server/keys/aa', 'hpcs-server/enrolments/aa']); // prettier-ignore
    await assert.rejects(
      clients.tidy(),
      refused('record-form', /1 records failed, first: the record hpcs-server\/enrolments\/aa/),
    );
  });

  it('let nobody in: neither with more than it knows, nor with times that are none', async () => {
    // What a later version adds may be a limit: what is not understood lets nobody in, and is not written back without it.
    const other = new SmallVault();
    const careful = new Clients(new Store(other.admin), other.admin, 'example.org');
    const created = new Date().toISOString();
    other.put('hpcs-server/clients/0123456af', {
      id: '0123456af',
      identity: 'enrolled:x',
      name: 'x',
      groups: [],
      created,
      suspended: true,
    });
    await assert.rejects(careful.find('0123456af'), refused('record-form', /does not know/));
    // A time that is none would never be over.
    const thumbprint = 'k'.repeat(43);
    other.put(`hpcs-server/keys/${thumbprint}`, { client: '0123456ae', created, expires: 'never' });
    const proof = { thumbprint, id: 'p', issuedAt: Date.now() / 1000 };
    await assert.rejects(careful.authenticate(proof), refused('record-form', /expires/));
  });
});

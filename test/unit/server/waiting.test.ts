import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mock } from 'node:test';
import { makeTicket, ticketHash, type Ticket } from '../../../src/job/ticket.ts';
import { Clients } from '../../../src/server/clients.ts';
import { Jobs } from '../../../src/server/jobs.ts';
import { jobBody } from '../../../src/server/bodies.ts';
import { Permissions } from '../../../src/server/permissions.ts';
import { Spire } from '../../../src/server/spire.ts';
import { Store } from '../../../src/server/store.ts';
import { clientToken, lonelyApi } from '../../support/api.ts';
import { refused } from '../../support/refused.ts';
import { SmallVault } from '../../support/small-vault.ts';

const anna = '0123456aa';
const bert = '0123456ab';
const tooMany = refused('too-many-jobs', /2 jobs of client 0123456aa wait for their keys, and there may be no more than 2/);

describe('jobs that wait for their keys', () => {
  let vault: SmallVault;
  let jobs: Jobs;
  const waiting = (): string[] => vault.below('hpcs-server/waiting/');

  beforeEach(() => {
    vault = new SmallVault();
    const store = new Store(vault.admin);
    const permissions = new Permissions(store, new Clients(store, vault.admin, 'example.org'));
    const options = { trustDomain: 'example.org', audience: 'vault', audit: () => undefined, mostWaiting: 2 };
    // SPIRE is not there: what comes for its keys is bound, and gets none.
    jobs = new Jobs(store, new Spire('/nonexistent/api.sock'), vault.admin, permissions, options);
  });
  afterEach(() => mock.timers.reset());

  const register = async (client: string, ticket: Ticket = makeTicket(), lifetime = 3600): Promise<Ticket> => {
    const artefacts = [{ role: 'data', secret_path: `client_${client}/x` }];
    await jobs.register(client, jobBody.parse({ job: '1', ticket: ticketHash(ticket), artefacts, lifetime }));
    return ticket;
  };

  it('are so many of one client; who ends one may register another', async () => {
    const [one] = [await register(anna), await register(anna)];
    await assert.rejects(register(anna), tooMany);
    await register(bert);
    await jobs.end(anna, ticketHash(one));
    await register(anna);
    await assert.rejects(register(anna), tooMany);
    assert.equal(waiting().length, 3);
  });

  it('are no more than that when many are registered at once', async () => {
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => register(anna)));
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 2);
    assert.equal(waiting().length, 2);
  });

  it('wait no more when their ticket has come', async () => {
    const [one] = [await register(anna), await register(anna)];
    await assert.rejects(jobs.redeem({ ...one, job: '1', key: `age1${'q'.repeat(58)}` }), refused('spire-unavailable'));
    assert.equal(waiting().length, 1);
    await register(anna);
  });

  it('are not counted twice, nor less, for a ticket that is registered again', async () => {
    const ticket = await register(anna);
    for (const lifetime of [3600, 7200]) await assert.rejects(register(anna, ticket, lifetime), refused('conflict'));
    assert.equal(waiting().length, 1);
    await register(anna);
    await assert.rejects(register(anna), tooMany);
  });

  it('are not counted where the vault fails over their registration', async () => {
    let failures = 3;
    vault.refuse = (method, path) => (method === 'POST' && path.includes('/jobs/') && failures-- > 0 ? 500 : undefined);
    for (let time = 0; time < 3; time++) await assert.rejects(register(anna), refused('vault-unavailable'));
    assert.equal(waiting().length, 0);
    await register(anna);
    await register(anna);
  });

  it('wait no more when they end, even where the vault failed when their ticket came', async () => {
    const one = await register(anna);
    vault.others.set('sys/internal/ui/mounts/auth/jwt', { accessor: 'auth_jwt' });
    vault.refuse = (method, path) => (method === 'DELETE' && path.includes('/waiting/') ? 500 : undefined);
    await assert.rejects(jobs.redeem({ ...one, job: '1', key: `age1${'q'.repeat(58)}` }), refused('spire-unavailable'));
    vault.refuse = () => undefined;
    assert.equal(waiting().length, 1);
    await jobs.end(anna, ticketHash(one));
    assert.equal(waiting().length, 0);
  });

  it('wait no more when they have expired, be there a job or only what a server left that died', async () => {
    await register(anna);
    vault.put(`hpcs-server/waiting/${anna}/${Math.ceil(Date.now() / 1000) + 60}-${createHash('sha256').digest('hex')}`, {});
    await assert.rejects(register(anna), tooMany);
    mock.timers.enable({ apis: ['Date'], now: Date.now() + 3_700_000 });
    // Even before they are tidied away.
    await register(anna);
    assert.equal(waiting().length, 3);
    await jobs.tidy();
    assert.equal(waiting().length, 1);
    assert.equal(vault.below('hpcs-server/jobs/').length, 1);
  });

  it('beyond their number are refused with 429, and the number', async () => {
    await Promise.all([register(anna), register(anna)]);
    await using app = lonelyApi({ jobs });
    const artefacts = [{ role: 'data', secret_path: `client_${anna}/x` }];
    const answer = await app.inject({
      method: 'POST',
      url: '/api/jobs',
      headers: { authorization: `Bearer ${await clientToken('hpcs-server', anna)}` },
      payload: { job: '1', ticket: ticketHash(makeTicket()), artefacts },
    });
    assert.equal(answer.statusCode, 429);
    assert.match(answer.body, /no more than 2: end some of them/);
    assert.equal(answer.headers['retry-after'], undefined);
  });
});

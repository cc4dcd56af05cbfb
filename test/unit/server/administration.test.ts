import assert from 'node:assert/strict';
import { HpcsError } from '../../../src/errors.ts';
import { formatSpiffeId, spiffeIds, type SpiffeId } from '../../../src/identity/spiffe-id.ts';
import { removeFrom } from '../../../src/server/administration.ts';
import { Clients } from '../../../src/server/clients.ts';
import { Spire, type Entry } from '../../../src/server/spire.ts';
import { Store } from '../../../src/server/store.ts';
import { refused } from '../../support/refused.ts';
import { SmallVault } from '../../support/small-vault.ts';

const id = '0123456af';
const trustDomain = 'example.org';
const agent = { trustDomain, path: '/spire/agent/join_token/x' };

/** A client that came with a join token, in a SPIRE that lets the server remove what it made itself, and else answers with a code. */
class ConfinedSpire extends Spire {
  readonly entries: Entry[];
  readonly #code: string;

  constructor(code: string) {
    super('/nonexistent/api.sock');
    this.#code = code;
    const plain = { selectors: [], jwtSvidTtl: 60, admin: false, downstream: false };
    this.entries = [
      { ...plain, id: 'alias', spiffeId: spiffeIds.clientAgent(trustDomain, id), parentId: agent },
      { ...plain, id: 'hpcs.1', spiffeId: spiffeIds.clientWorkload(trustDomain, id), parentId: agent },
    ];
  }

  override async listEntries(spiffeId: SpiffeId): Promise<Entry[]> {
    return this.entries.filter((entry) => formatSpiffeId(entry.spiffeId) === formatSpiffeId(spiffeId));
  }

  override async deleteEntries(ids: readonly string[]): Promise<void> {
    for (const one of ids) {
      if (!one.startsWith('hpcs.')) throw new HpcsError('identity', 'spire-refused', 'no');
      this.entries.splice(this.entries.findIndex((entry) => entry.id === one), 1); // prettier-ignore
    }
  }

  override async deleteAgent(): Promise<void> {
    throw new HpcsError('identity', this.#code, 'no');
  }
}

describe('the removal of a client', () => {
  let vault: SmallVault;
  let clients: Clients;
  let stays: string[];

  beforeEach(() => {
    vault = new SmallVault();
    clients = new Clients(new Store(vault.admin), vault.admin, trustDomain);
    stays = [];
    vault.others.set('sys/internal/ui/mounts/auth/jwt', { accessor: 'a' });
    vault.put(`client_${id}/!x`, {});
  });

  const remove = (spire: Spire) => removeFrom({ vault: vault.admin, spire, clients, trustDomain }, id, { destroy: true, stays: (which) => void stays.push(which) }); // prettier-ignore

  it('goes on to the end where SPIRE does not let the server remove its agent, which is told', async () => {
    const spire = new ConfinedSpire('spire-refused');
    assert.deepEqual(await remove(spire), { id, name: id, destroyed: 1, left: 0 });
    assert.deepEqual(stays, ['spiffe://example.org/spire/agent/join_token/x']);
    assert.deepEqual(spire.entries.map((entry) => entry.id), ['alias']); // prettier-ignore
    assert.ok(vault.asked.includes('POST identity/lookup/entity'));
    assert.deepEqual(vault.below(`client_${id}/`), []);
  });

  it('ends where SPIRE does not answer, and can be repeated', async () => {
    await assert.rejects(remove(new ConfinedSpire('spire-unavailable')), refused('spire-unavailable', /no/));
    assert.equal(await clients.isRemoved(id), true);
    assert.equal((await remove(new ConfinedSpire('spire-refused'))).destroyed, 1);
  });
});

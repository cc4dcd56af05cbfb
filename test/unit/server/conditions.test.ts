import assert from 'node:assert/strict';
import { choose, gist, hindrance, type GrantRecord } from '../../../src/server/conditions.ts';

const grant = (changes: Partial<GrantRecord> = {}): GrantRecord => ({
  id: '00000000',
  clients: ['0123456af'],
  groups: [],
  used: [],
  created: '2026-01-01T00:00:00Z',
  ...changes,
});
const job = { handle: 't', image: 'i' };

describe('conditions of a grant', () => {
  it('let in what they are for, and say what hinders the rest', () => {
    const later = new Date(Date.now() + 60_000).toISOString();
    assert.equal(hindrance(grant(), job), undefined);
    assert.equal(hindrance(grant({ until: later, image: 'i', jobs: 1 }), job), undefined);
    assert.match(hindrance(grant({ until: '2026-01-01T00:00:00Z' }), job) ?? '', /ended at 2026/);
    assert.match(hindrance(grant({ image: 'other' }), job) ?? '', /another image/);
    assert.match(hindrance(grant({ image: 'i' }), { handle: 't', image: undefined }) ?? '', /another image/);
    assert.match(hindrance(grant({ jobs: 2, used: ['a', 'b'] }), job) ?? '', /was for 2 jobs/);
    // One that is counted already stays in.
    assert.equal(hindrance(grant({ jobs: 2, used: ['a', 't'] }), job), undefined);
  });

  it('are taken from the grant that counts the job, then from one that counts none', () => {
    const counting = grant({ id: 'counting', jobs: 5 });
    const free = grant({ id: 'free' });
    const mine = grant({ id: 'mine', jobs: 1, used: ['t'] });
    const over = grant({ id: 'over', until: '2026-01-01T00:00:00Z' });
    assert.equal(choose([over, counting, free, mine], job)?.id, 'mine');
    assert.equal(choose([over, counting, free], job)?.id, 'free');
    assert.equal(choose([over, counting], job)?.id, 'counting');
    assert.equal(choose([over], job), undefined);
  });

  it('make the same grant in whatever order and however often used', () => {
    const one = grant({ clients: ['a', 'b'], jobs: 2 });
    assert.equal(gist(one), gist(grant({ clients: ['b', 'a'], jobs: 2, used: ['x'], id: 'other' })));
    assert.notEqual(gist(one), gist(grant({ clients: ['a', 'b'] })));
    assert.notEqual(gist(grant({ clients: ['a'] })), gist(grant({ clients: [], groups: ['a'] })));
  });
});

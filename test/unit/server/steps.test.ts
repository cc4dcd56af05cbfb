import assert from 'node:assert/strict';
import { HpcsError } from '../../../src/errors.ts';
import { goThrough, missing, right, unknown, wrong, type Step } from '../../../src/server/steps.ts';

describe('steps of a set-up', () => {
  const made = new Set<string>();
  const step = (what: string): Step => ({
    what,
    look: async () => (made.has(what) ? right : missing('it was not there')),
    make: async () => void made.add(what),
  });
  beforeEach(() => made.clear());
  const states = async (steps: readonly Step[], check = false): Promise<string[]> =>
    (await goThrough(steps, { check })).map(({ state }) => state);

  it('are made where they are missing, and left alone where they are right', async () => {
    made.add('b');
    assert.deepEqual(await states([step('a'), step('b')]), ['done', 'right']);
    assert.deepEqual(await states([step('a'), step('b')]), ['right', 'right']);
  });

  it('are only looked at when that is asked for', async () => {
    assert.deepEqual(await states([step('a')], true), ['missing']);
    assert.equal(made.size, 0);
  });

  it('are not called done when they are not right afterwards', async () => {
    const stubborn: Step = { what: 'x', look: async () => missing('it was not there'), make: async () => undefined };
    assert.deepEqual(await states([stubborn]), ['missing']);
  });

  it('go on after one that fails, and say why', async () => {
    const failing: Step = {
      what: 'x',
      look: () => Promise.reject(new HpcsError('identity', 'x', 'it is broken', { suggestion: 'mend it' })),
    };
    const others: Step[] = [
      { what: 'w', look: async () => wrong('a person must') },
      { what: 'u', look: async () => unknown('not from here') },
    ];
    const reports = await goThrough([failing, ...others, step('a')], { check: false });
    assert.deepEqual(reports.map(({ state }) => state), ['wrong', 'wrong', 'unknown', 'done']); // prettier-ignore
    assert.equal(reports[0]?.why, 'it is broken (mend it)');
  });

  it('end where the caller ends them', async () => {
    await assert.rejects(goThrough([step('a')], { check: false, signal: AbortSignal.abort(new Error('enough')) }), /enough/);
  });
});

import assert from 'node:assert/strict';
import type { HpcsError } from '../../src/errors.ts';
import { parseUntil } from '../../src/until.ts';

describe('until', () => {
  const now = Date.parse('2026-11-22T12:00:00Z');

  for (const [value, expected] of [
    ['12h', '2026-11-23T00:00:00.000Z'],
    ['30d', '2026-12-22T12:00:00.000Z'],
    ['2w', '2026-12-06T12:00:00.000Z'],
    ['2026-11-22', '2026-11-22T23:59:59.000Z'],
    ['2028-02-29', '2028-02-29T23:59:59.000Z'],
    ['2026-11-22T15:00:00+02:00', '2026-11-22T13:00:00.000Z'],
  ] as const) {
    it(`reads ${value}`, () => assert.equal(parseUntil(value, now), expected));
  }

  for (const value of [
    '',
    '0d',
    '30',
    '30m',
    '-1d',
    'tomorrow',
    '2026-11-21',
    '2026-11-22T15:00:00',
    '2026-13-01',
    '2026-02-31T00:00:00',
    '2027-02-30',
    '2027-02-29T00:00:00+01:00',
    '2027-04-31',
  ]) {
    it(`refuses ${JSON.stringify(value)}`, () =>
      assert.throws(
        () => parseUntil(value, now),
        (error: HpcsError) => error.code === 'until-invalid',
      ));
  }
});

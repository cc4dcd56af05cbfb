import { HpcsError } from './errors.ts';

/** Milliseconds. */
const units: Readonly<Record<string, number>> = { h: 3_600_000, d: 86_400_000, w: 7 * 86_400_000 };

/**
 * A time to come: RFC 3339 with its zone, a date (until its end, UTC), or a duration from now (`12h`, `30d`, `2w`).
 *
 * @param now milliseconds since 1970
 * @returns RFC 3339, UTC
 * @throws HpcsError `usage` `until-invalid`
 */
export function parseUntil(value: string, now = Date.now()): string {
  const [, count, unit = ''] = /^(\d{1,5})([hdw])$/.exec(value) ?? [];
  const date = /^\d{4}-\d{2}-\d{2}$/.test(value) ? `${value}T23:59:59Z` : value;
  // Date takes the 30th of February for the 2nd of March.
  const [year, month, day] = date.split(/[-T]/, 3).map(Number);
  const isDay = new Date(Date.UTC(year ?? 0, (month ?? 0) - 1, day)).getUTCDate() === day;
  const isTime = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$/.test(date);
  const time = new Date(count !== undefined ? now + Number(count) * (units[unit] ?? 0) : isTime && isDay ? date : Number.NaN);
  const invalid = (what: string): HpcsError =>
    new HpcsError('usage', 'until-invalid', `${JSON.stringify(value)} ${what}`, {
      suggestion: 'write for example 30d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z',
    });
  if (Number.isNaN(time.getTime())) throw invalid('is neither a time nor a duration');
  if (time.getTime() <= now) throw invalid('is past');
  return time.toISOString();
}

import { HpcsError } from './errors.ts';

const units: Readonly<Record<string, number>> = { '': 1, k: 1e3, M: 1e6, G: 1e9 };

/**
 * Bytes per second, from a number with a decimal unit: `500k`, `20M`, `1.5G`.
 *
 * @throws HpcsError `usage` `rate-invalid`
 */
export function parseRate(value: string): number {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)([kMG]?)$/.exec(value) ?? [];
  const rate = Number(number) * (units[unit] ?? Number.NaN);
  if (number !== '' && rate >= 1) return rate;
  throw new HpcsError('usage', 'rate-invalid', `${JSON.stringify(value)} is no number of bytes per second`, {
    suggestion: 'write for example 500k, 20M or 1.5G',
  });
}

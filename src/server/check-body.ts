import type { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { expectations } from './bodies.ts';

/** A request's body or query, checked. @throws HpcsError `usage` with code `bad-request`, naming the first key that is wrong */
export function checkBody<Shape extends z.ZodType>(shape: Shape, value: unknown): z.output<Shape> {
  const result = shape.safeParse(value);
  if (result.success) return result.data;
  const [key] = result.error.issues[0]?.path.map(String) ?? [];
  const message = key === undefined ? 'expected a JSON object' : `${key}: expected ${expectations[key] ?? 'another value'}`;
  throw new HpcsError('usage', 'bad-request', message);
}

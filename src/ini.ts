import { parse } from 'ini';
import type { z } from 'zod';
import { HpcsError } from './errors.ts';

/**
 * Parses INI text and checks it against a schema of sections and keys.
 *
 * @param file its name, for messages
 * @throws HpcsError `usage` with the first thing that is wrong: file, section, key and what was expected
 */
export function parseIni<Schema extends z.ZodType>(
  schema: Schema,
  content: string,
  file: string,
  suggestion: string,
): z.output<Schema> {
  const result = schema.safeParse(plain(parse(content)));
  if (result.success) return result.data;
  throw new HpcsError('usage', 'config-invalid', describe(result.error.issues[0], file), { suggestion });
}

// ini makes objects without a prototype, nests keys that hold dots, and keeps single quotes around some values.
function plain(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}

function describe(issue: z.core.$ZodIssue | undefined, file: string): string {
  if (issue === undefined) return `${file} is not a valid configuration`;
  const [section, key] = issue.path.map(String);
  if (issue.code === 'unrecognized_keys') {
    const where = section === undefined ? 'section' : `key in section [${section}]`;
    return `${file}: unknown ${where}: ${issue.keys.join(', ')}`;
  }
  if (section !== undefined && key === undefined) return `${file}: section [${section}] is missing`;
  return `${file}: [${section}] ${key}: expected ${issue.message}`;
}

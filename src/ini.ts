import { parse } from 'ini';
import { z } from 'zod';
import { HpcsError } from './errors.ts';
import { expandHome } from './home.ts';
import { printableLine } from './report.ts';

const text = z.string({ error: 'a value' }).min(1, 'a value').regex(/^\P{Cc}*$/u, 'a value without control characters'); // prettier-ignore

/** Forms of single values, for the schemas of configuration files. Each says what was expected in a few words. */
export const iniValues = {
  text,
  count: (least: number) => wholeNumber(`a number, ${least} or more`, least, Number.MAX_SAFE_INTEGER),
  seconds: (least: number, most: number) => wholeNumber(`seconds, from ${least} to ${most}`, least, most),
  /** A file or directory of this machine. */
  localPath: text.transform((path) => expandHome(path)),
  /** A name or address of a host. It may not begin with a dash, since it stands in command lines. */
  host: z.string({ error: 'a host name or address' }).regex(/^(?!-)[A-Za-z0-9._:%[\]-]+$/, 'a host name or address'),
  port: wholeNumber('a port number, from 1 to 65535', 1, 65_535),
  /** An `http` or `https` URL in its canonical form, without a final slash. */
  url: z
    .url({ protocol: /^https?$/, error: 'a URL such as https://host:port' })
    .transform((value) => new URL(value))
    .refine((value) => value.username === '' && value.password === '', 'a URL without user name and password')
    .refine((value) => value.search === '' && value.hash === '', 'a URL that ends before any ? or #')
    .transform((value) => (value.origin + value.pathname).replace(/\/+$/, '')),
  /** Values between commas; or, for values that hold commas, the key repeated as `key[] = value`. */
  list: z
    .union([z.string().transform((value) => value.split(',')), z.array(z.string())], { error: 'values between commas' })
    .transform((values) => values.map((value) => value.trim()).filter(Boolean)),
  boolean: z
    .enum(['true', 'false', 'yes', 'no'], { error: 'true or false' })
    .transform((value) => value === 'true' || value === 'yes'),
  /** A namespace of an OpenBao or Vault, for example `research/hpcs`. Those of other forms exist; none needs one here. */
  vaultNamespace: z
    .string({ error: 'a namespace' })
    .transform((value) => value.replace(/^\/|\/$/g, ''))
    .refine(
      (value) => /^[a-z0-9][a-z0-9_-]*(\/[a-z0-9][a-z0-9_-]*)*$/.test(value),
      'a namespace: lower-case letters, digits, dashes',
    ),
  /** A DNS-like trust domain name. @see SPIFFE-ID, 2.1 */
  trustDomain: z
    .string({ error: 'a trust domain' })
    .regex(/^[a-z0-9._-]{1,255}$/, 'a trust domain: lower-case letters, digits, dots, dashes'),
} as const;

// JavaScript itself would take 0x50 and 1e3, and nothing at all for 0.
function wholeNumber(expected: string, least: number, most: number) {
  return z
    .string({ error: expected })
    .regex(/^[0-9]{1,16}$/, expected)
    .transform(Number)
    .refine((value) => value >= least && value <= most, expected);
}

/**
 * Parses INI text and checks it against a schema of sections and keys. Every value arrives at the schema as a string, or as an
 * array of strings for `key[] = value`.
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
  const parsed = plain(parse(normal(content)));
  const result = schema.safeParse(parsed);
  if (result.success) return result.data;
  throw new HpcsError('usage', 'config-invalid', describe(result.error.issues, parsed, file), { suggestion });
}

// The original reads its files with Python's configparser, the ini package has rules of its own. Where a file of the original could
// hold something that ini understands differently, it is written in ini's way first: a colon in place of the equals sign, upper case
// in keys, white space before and a comment behind a section. A dot in a section's name makes no section within a section here, and a
// comment behind a quoted value does not leave the quotes in it.
function normal(content: string): string {
  const lines = content.replace(/^\uFEFF/, '').split(/\r\n|\r|\n/);
  return lines.map(normalLine).join('\n');
}

function normalLine(line: string): string {
  if (/^\s*([;#]|$)/.test(line)) return '';
  const section = /^\s*\[([^\]]*)\]\s*([;#].*)?$/.exec(line)?.[1];
  if (section !== undefined) return `[${section.trim().replaceAll('.', String.raw`\.`)}]`;
  const [, key = line, value] = /^([^=:]*)[=:](.*)$/.exec(line) ?? [];
  const name = key.trim().toLowerCase();
  if (value === undefined) return `${name} =`;
  const quoted = /^\s*("(?:[^"\\]|\\.)*"|'[^']*')\s*[;#]/.exec(value)?.[1];
  return `${name} = ${quoted ?? value}`;
}

// ini makes objects without a prototype, and turns some text into booleans, null, and (behind single quotes) into any JSON.
function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return String(value);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}

function describe(issues: readonly z.core.$ZodIssue[], parsed: unknown, file: string): string {
  // A misspelt key is missing and unknown at once: what stands in the file says more.
  const issue = issues.find((candidate) => candidate.code === 'unrecognized_keys') ?? issues[0];
  if (issue === undefined) return `${file} is not a valid configuration`;
  const [section, key] = issue.path.map(String);
  if (issue.code === 'unrecognized_keys') {
    const names = issue.keys.map(shown).join(', ');
    if (section !== undefined) return `${file}: unknown key in section [${section}]: ${names}`;
    const outside = issue.keys.filter((name) => typeof Reflect.get(parsed as object, name) !== 'object');
    if (outside.length > 0) return `${file}: ${outside.map(shown).join(', ')} stands outside of any section`;
    return `${file}: unknown section: ${names}`;
  }
  if (section !== undefined && key === undefined) return `${file}: section [${section}] is missing`;
  return `${file}: [${section}] ${key}: expected ${issue.message}`;
}

function shown(name: string): string {
  return printableLine(name, 80);
}

import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { HpcsError, systemCode } from './errors.ts';
import { parseIni } from './ini.ts';

const port = z.coerce.number({ error: 'a port number' }).int().min(1).max(65535);
const text = z.string({ error: 'a value' }).min(1, 'a value');
const url = z
  .url({ protocol: /^https?$/, error: 'a URL such as https://host:port' })
  .transform((value) => value.replace(/\/+$/, ''));
const list = z.string().transform((value) => value.split(',').map((part) => part.trim()).filter(Boolean)); // prettier-ignore
const boolean = z.union([z.boolean(), z.enum(['true', 'false', 'yes', 'no'])], { error: 'true or false' }).transform((value) => value === true || value === 'true' || value === 'yes'); // prettier-ignore

/** A DNS-like trust domain name. @see SPIFFE-ID, 2.1 */
const trustDomain = z.string().regex(/^[a-z0-9._-]{1,255}$/, 'a trust domain: lower-case letters, digits, dots, dashes');

/**
 * Sections and keys of `hpcs-client.conf`. Those of the original client stand first in each section and are required as there;
 * the others have defaults. `hpcs-client.conf.example` explains each.
 */
const schema = z.strictObject({
  'spire-server': z.strictObject({
    address: text,
    port,
    'trust-domain': trustDomain,
    'trust-bundle-file': text.optional(),
    'address-from-node': text.optional(),
    'port-from-node': port.optional(),
  }),
  'spire-agent': z.strictObject({ bin: text.default('spire-agent') }).prefault({}),
  'hpcs-server': z.strictObject({
    url,
    'ca-file': text.optional(),
    'url-from-node': url.optional(),
    audience: text.default('hpcs-server'),
  }),
  vault: z.strictObject({
    url,
    'ca-file': text.optional(),
    'url-from-node': url.optional(),
    audience: text.default('vault'),
  }),
  supercomputer: z.strictObject({
    address: text,
    username: z.string().regex(/^[A-Za-z_][A-Za-z0-9._-]*$/, 'a user name'),
    port: port.optional(),
    transport: z.enum(['ssh2', 'openssh'], { error: "'ssh2' or 'openssh'" }).default('ssh2'),
    'identity-file': list.default([]),
    'known-hosts': list.default([]),
    'host-key-fingerprint': z
      .string()
      .regex(/^SHA256:[A-Za-z0-9+/]{43}=?$/, 'a fingerprint as ssh-keygen -l prints it: SHA256:…')
      .optional(),
    'ssh-options': list.default([]),
    'tool-kit-directory': text.optional(),
    'node-scratch': text.optional(),
    apptainer: text.optional(),
  }),
  client: z
    .strictObject({
      'state-directory': text.optional(),
      'tool-kit': text.optional(),
      'build-image': text.optional(),
      'allow-insecure-http': boolean.default(false),
    })
    .prefault({}),
});

/** The client's configuration, checked and with its defaults. */
export type Config = z.output<typeof schema> & { readonly file: string };

/** Where a configuration is looked for, first match wins: the flag, `HPCS_CONFIG`, here, XDG, and the original's place. */
export function configCandidates(flag: string | undefined, env: NodeJS.ProcessEnv = process.env): string[] {
  if (flag !== undefined) return [flag];
  if (env['HPCS_CONFIG']) return [env['HPCS_CONFIG']];
  const xdg = env['XDG_CONFIG_HOME'] || join(homedir(), '.config');
  return ['hpcs-client.conf', join(xdg, 'hpcs', 'hpcs-client.conf'), '/tmp/hpcs-client.conf'];
}

/**
 * Reads the client's configuration.
 *
 * @param flag value of `--config`, if given
 * @throws HpcsError `usage` naming file, section, key and what was expected
 */
export async function loadConfig(flag: string | undefined, env: NodeJS.ProcessEnv = process.env): Promise<Config> {
  const candidates = configCandidates(flag, env);
  for (const file of candidates) {
    let content: string;
    try {
      content = await readFile(file, 'utf8');
    } catch (error) {
      if (systemCode(error) === 'ENOENT' && flag === undefined && !env['HPCS_CONFIG']) continue;
      throw new HpcsError(
        'usage',
        'config-unreadable',
        `cannot read the configuration ${file}: ${systemCode(error) ?? 'unknown error'}`,
        {
          cause: error,
          suggestion: 'name another file with --config or HPCS_CONFIG',
        },
      );
    }
    return parseConfig(content, file);
  }
  throw new HpcsError('usage', 'config-missing', `no configuration found (looked for ${candidates.join(', ')})`, {
    suggestion: 'copy hpcs-client.conf.example to ./hpcs-client.conf and fill it in, or name a file with --config',
  });
}

/**
 * Parses INI text into a {@link Config}.
 *
 * @throws HpcsError `usage` with the first thing that is wrong
 */
export function parseConfig(content: string, file: string): Config {
  return { ...parseIni(schema, content, file, 'hpcs-client.conf.example explains every section and key'), file };
}

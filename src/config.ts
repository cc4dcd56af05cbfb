import { constants } from 'node:fs';
import { open, readFile, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { z } from 'zod';
import { HpcsError, systemCode } from './errors.ts';
import { expandHome, homeOf } from './home.ts';
import { parseRate } from './rate.ts';
import { iniValues, parseIni } from './ini.ts';
import { isOthers } from './file-owner.ts';

const { text, localPath, host, port, seconds, url, list, boolean, trustDomain, vaultNamespace } = iniValues;

/** A directory on the site or its nodes. It ends up in lists that colons and commas part, and in a `#SBATCH` line. */
const siteDirectory = z.string().regex(/^\/[^\s:,"'\\%#\p{Cc}]*$/u, 'an absolute path without spaces, quotes, commas or colons');

const accountName = z.string({ error: 'a user name' }).regex(/^[A-Za-z0-9_][A-Za-z0-9._-]*$/, 'a user name');

/**
 * Sections and keys of `hpcs-client.conf`. Those of the original client stand first in each section and are required as there;
 * the others have defaults. `hpcs-client.conf.example` explains each.
 */
export const configSections = {
  'spire-server': z.strictObject({
    address: host,
    port,
    'trust-domain': trustDomain,
    'trust-bundle-file': localPath.optional(),
    'address-from-node': host.optional(),
    'port-from-node': port.optional(),
  }),
  'hpcs-server': z.strictObject({
    url,
    'ca-file': localPath.optional(),
    'url-from-node': url.optional(),
    audience: text.default('hpcs-server'),
  }),
  vault: z.strictObject({
    url,
    'ca-file': localPath.optional(),
    'url-from-node': url.optional(),
    audience: text.default('vault'),
    namespace: vaultNamespace.optional(),
  }),
  supercomputer: z.strictObject({
    address: host,
    username: accountName,
    port: port.optional(),
    transport: z.enum(['ssh2', 'openssh'], { error: 'ssh2 or openssh' }).default('ssh2'),
    'identity-file': list.default([]),
    'known-hosts': list.default([]),
    'host-key-fingerprint': z
      .string()
      .regex(/^SHA256:[A-Za-z0-9+/]{43}=?$/, 'a fingerprint as ssh-keygen -l prints it: SHA256:…')
      .optional(),
    'ssh-options': list.default([]),
    'reconnect-limit': seconds(0, 86_400).default(300),
    'bandwidth-limit': z
      .string()
      .regex(/^\d+(\.\d+)?[kMG]?$/, 'bytes per second, for example 20M')
      .transform(parseRate)
      .optional(),
    'tool-kit-directory': siteDirectory.optional(),
    'node-scratch': siteDirectory.optional(),
    apptainer: z
      .string()
      .regex(/^[A-Za-z0-9_/][A-Za-z0-9._+/-]*$/, 'a program or its absolute path')
      .default('apptainer'),
  }),
  'spire-agent': z.strictObject({
    bin: localPath.default('spire-agent'),
    'socket-on-node': z
      .string()
      .regex(/^unix:(\/\/)?\/[^\s?#]+$/, 'a socket such as unix:///run/spire/agent.sock')
      .optional(),
  }),
  identity: z.strictObject({
    client: z
      .enum(['auto', 'agent', 'login', 'ci', 'key', 'register'], { error: 'auto, agent, login, ci, key or register' })
      .default('auto'),
    'key-file': localPath.optional(),
    issuer: text.optional(),
    'client-id': text.optional(),
    'issuer-ca-file': localPath.optional(),
    mode: z.enum(['auto', 'job', 'connected', 'agent'], { error: 'auto, job, connected or agent' }).default('auto'),
    'connect-timeout': seconds(60, 604_800).default(3600),
  }),
  client: z.strictObject({
    'state-directory': localPath.optional(),
    'tool-kit': localPath.optional(),
    recipient: list.transform((recipients) => recipients.map((recipient) => expandHome(recipient))).default([]),
    'allow-insecure-http': boolean.default(false),
  }),
} as const;

const schema = z.strictObject({
  ...configSections,
  'spire-agent': configSections['spire-agent'].prefault({}),
  identity: configSections.identity.prefault({}),
  client: configSections.client.prefault({}),
});

/** The client's configuration, checked and with its defaults. */
export type Config = z.output<typeof schema> & { readonly file: string };

/** Where a configuration is looked for, first match wins: the flag, `HPCS_CONFIG`, here, XDG, and the original's place. */
export function configCandidates(flag: string | undefined, env: NodeJS.ProcessEnv = process.env): string[] {
  if (flag !== undefined) return [flag];
  if (env['HPCS_CONFIG']) return [env['HPCS_CONFIG']];
  const xdg = env['XDG_CONFIG_HOME'] || join(homeOf(env), '.config');
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
  const named = flag !== undefined || Boolean(env['HPCS_CONFIG']);
  for (const file of candidates) {
    try {
      return parseConfig(named ? await readFile(file, 'utf8') : await readFound(file), file);
    } catch (error) {
      if (error instanceof HpcsError) throw error;
      if (systemCode(error) === 'ENOENT' && !named) continue;
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
  }
  throw new HpcsError('usage', 'config-missing', `no configuration found (looked for ${candidates.join(', ')})`, {
    suggestion: 'copy hpcs-client.conf.example to ./hpcs-client.conf and fill it in, or name a file with --config',
  });
}

// Others can put a file where one is looked for; it would name the vault, and a program to run. So what is looked at is what is read: not a
// path that may be another file a moment later, nor a pipe that somebody else fills.
async function readFound(file: string): Promise<string> {
  await using handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
  const found = await handle.stat();
  // People share working directories with their group; where anybody can put files, it may be anybody's group.
  const writable = ((await stat(dirname(resolve(file)))).mode & 0o002) === 0 ? 0o002 : 0o022;
  if (found.isFile() && !isOthers(found, writable)) return await handle.readFile('utf8');
  const what = found.isFile() ? 'belongs to somebody else, or can be written to by others' : 'is no file';
  throw new HpcsError('usage', 'config-of-others', `the configuration ${file} ${what}`, {
    suggestion: 'if it is meant, name it with --config',
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

/**
 * A configuration for another account on the site, where a flag says so: whoever reads it means the same one.
 *
 * @throws HpcsError `usage` for what can be no user name
 */
export function withUsername(config: Config, username: string | undefined): Config {
  if (username === undefined) return config;
  if (!accountName.safeParse(username).success) {
    throw new HpcsError('usage', 'bad-username', `--username ${username}: expected a user name`, {
      suggestion: 'give the name of your account on the site, as ssh takes it',
    });
  }
  return { ...config, supercomputer: { ...config.supercomputer, username } };
}

/** A configuration in which jobs get their keys in another way, where a flag says so. */
export function withMode(config: Config, mode: Config['identity']['mode'] | undefined): Config {
  return mode === undefined ? config : { ...config, identity: { ...config.identity, mode } };
}

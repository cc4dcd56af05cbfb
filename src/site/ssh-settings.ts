import { lstatSync } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config.ts';
import { HpcsError } from '../errors.ts';
import { accountHome, expandHome } from '../home.ts';
import { isOthers } from '../file-owner.ts';

/** How the site is reached: the configuration's keys with the defaults of this machine. */
export interface SshSettings {
  host: string;
  /** Undefined where the configuration names none: 22, or what ssh_config says. */
  port: number | undefined;
  username: string;
  /** Key files that exist, in the order to try them. */
  identityFiles: string[];
  /** Whether the configuration named the key files; then they go before an agent's keys. */
  identityChosen: boolean;
  /** Socket of an ssh-agent. */
  agent: string | undefined;
  /** known_hosts files, existing or not. */
  knownHosts: string[];
  /** Whether the configuration named the known_hosts files. */
  knownHostsChosen: boolean;
  /** `SHA256:…` without padding: the only host key to accept. */
  fingerprint: string | undefined;
  /** Options for the `ssh` program, each `Name=value`. */
  options: string[];
  /** For connecting, in seconds. */
  timeout: number;
}

/** Names under which ssh itself looks for keys, newest kind first. */
const defaultKeys = ['id_ed25519', 'id_ecdsa', 'id_rsa'];

/**
 * Reads what an SSH connection needs from the configuration and this machine. Keys and known_hosts are looked for in `$HOME/.ssh`
 * and `/tmp/.ssh`, where containers of the original have them mounted.
 *
 * @param username overrides the configuration's
 * @throws HpcsError `usage` when a configured key file does not exist
 */
export async function sshSettings(
  config: Config,
  username: string | undefined,
  env: NodeJS.ProcessEnv = process.env,
): Promise<SshSettings> {
  const site = config.supercomputer;
  const chosen = site['identity-file'].map((file) => expandHome(file, env));
  for (const file of chosen) {
    if (!(await exists(file)))
      throw new HpcsError('usage', 'identity-file-missing', `the identity-file ${file} does not exist or cannot be read`, {
        suggestion: `correct identity-file in section [supercomputer] of ${config.file}`,
      });
  }
  const candidates = sshDirectories(env).flatMap((directory) => defaultKeys.map((name) => join(directory, name)));
  const found = await Promise.all(candidates.map(async (file) => ((await exists(file)) ? [file] : [])));
  const knownHosts = site['known-hosts'].map((file) => expandHome(file, env));
  return {
    host: site.address,
    port: site.port,
    username: username ?? site.username,
    identityFiles: chosen.length > 0 ? chosen : found.flat(),
    identityChosen: chosen.length > 0,
    agent: env['SSH_AUTH_SOCK'] || undefined,
    knownHosts: knownHosts.length > 0 ? knownHosts : defaultKnownHosts(env),
    knownHostsChosen: knownHosts.length > 0,
    fingerprint: site['host-key-fingerprint']?.replace(/=+$/, ''),
    options: joinOptions(site['ssh-options']),
    timeout: 20,
  };
}

/**
 * Directories that may hold keys and known_hosts. `HOME` may be unset in a container, where the original mounts them in `/tmp`.
 *
 * @param shared where that is
 */
export function sshDirectories(env: NodeJS.ProcessEnv, shared = '/tmp'): string[] {
  const mounted = isOwnDirectory(join(shared, '.ssh')) ? shared : undefined;
  const homes = [env['HOME'], accountHome(), mounted].filter((home) => home !== undefined && home.startsWith('/'));
  return [...new Set(homes.map((home) => join(home ?? '/', '.ssh')))];
}

// Anybody can make one there, with a known_hosts of his own: also later, where there is none now.
function isOwnDirectory(path: string): boolean {
  try {
    const found = lstatSync(path);
    return found.isDirectory() && !isOthers(found);
  } catch {
    return false;
  }
}

function defaultKnownHosts(env: NodeJS.ProcessEnv): string[] {
  return [...sshDirectories(env).map((directory) => join(directory, 'known_hosts')), '/etc/ssh/ssh_known_hosts'];
}

/** Whether a private key file is protected by a passphrase. @see OpenSSH PROTOCOL.key; RFC 1421, 4.6.1.1 */
export async function isEncryptedKey(file: string): Promise<boolean> {
  const text = await readFile(file, 'latin1').catch(() => '');
  const body = /-----BEGIN OPENSSH PRIVATE KEY-----([^-]*)-----END/.exec(text)?.[1];
  if (body === undefined) return /ENCRYPTED/.test(text);
  const cipher = Buffer.from(body, 'base64').subarray('openssh-key-v1\0'.length);
  return cipher.length > 8 && cipher.toString('latin1', 4, 4 + Math.min(cipher.readUInt32BE(0), 64)) !== 'none';
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

// The configuration splits lists at commas, which values of ssh options hold too: a part that names no option belongs to the last.
function joinOptions(parts: readonly string[]): string[] {
  const options: string[] = [];
  for (const part of parts) {
    const last = options.length - 1;
    if (/^[A-Za-z0-9]+\s*[= ]/.test(part) || last < 0) options.push(part);
    else options[last] += `,${part}`;
  }
  return options;
}

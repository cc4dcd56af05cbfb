import { createHash, createHmac, timingSafeEqual } from 'node:crypto';

/** One usable line of a known_hosts file. */
export interface KnownHostEntry {
  marker: 'none' | 'revoked' | 'cert-authority';
  /** The host field as it stands: a list of patterns, or one hashed name (`|1|salt|hash`). */
  hosts: string;
  /** `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa`, … */
  type: string;
  /** The public key in its wire form. */
  key: Buffer;
  /** Where the line stands, for messages: `file:line`. */
  where: string;
}

/**
 * What the entries say about a key that a host shows. `changed` means that another key of the same type is known, `unknown` that
 * none of that type is.
 */
export type HostKeyVerdict = 'match' | 'unknown' | 'changed' | 'revoked';

/**
 * Reads OpenSSH's known_hosts format. Lines that OpenSSH passes over (comments, unknown markers, SSH 1 keys, damaged keys) are passed
 * over here too: no line can make a host trusted by being misread.
 *
 * @param content the file's text
 * @param file its name, for messages
 * @see sshd(8), SSH_KNOWN_HOSTS FILE FORMAT
 */
export function parseKnownHosts(content: string, file: string): KnownHostEntry[] {
  return content.split('\n').flatMap((line, index) => parseLine(line, `${file}:${index + 1}`) ?? []);
}

function parseLine(line: string, where: string): KnownHostEntry | undefined {
  const fields = line.trim().split(/[ \t]+/);
  let marker: KnownHostEntry['marker'] = 'none';
  if (fields[0]?.startsWith('@')) {
    const word = fields.shift();
    if (word !== '@revoked' && word !== '@cert-authority') return undefined;
    marker = word === '@revoked' ? 'revoked' : 'cert-authority';
  }
  const [hosts, type, encoded] = fields;
  if (!hosts || hosts.startsWith('#') || !type || !encoded || !/^[A-Za-z0-9+/]+=*$/.test(encoded)) return undefined;
  const key = Buffer.from(encoded, 'base64');
  return keyType(key) === type ? { marker, hosts, type, key, where } : undefined;
}

/** The type that a public key in wire form names itself, or undefined where it is damaged. @see RFC 4253, 6.6 */
export function keyType(key: Buffer): string | undefined {
  if (key.length < 4) return undefined;
  const length = key.readUInt32BE(0);
  return length > 0 && length <= 64 && key.length > 4 + length ? key.toString('latin1', 4, 4 + length) : undefined;
}

/** A key's fingerprint as `ssh-keygen -l` prints it: `SHA256:` and unpadded base64. */
export function fingerprint(key: Buffer): string {
  return `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`;
}

/**
 * Compares the key a host shows with what is known of it. As OpenSSH does, a host on another port than 22 is looked up as
 * `[host]:port`, and a key known under the bare name is accepted where `[host]:port` is not known.
 */
export function checkHostKey(entries: readonly KnownHostEntry[], host: string, port: number, key: Buffer): HostKeyVerdict {
  const [named, bare] = lookupNames(host, port);
  const verdict = checkName(entries, named, key);
  if (verdict !== 'unknown' || bare === undefined) return verdict;
  const fallback = checkName(entries, bare, key);
  return fallback === 'changed' ? 'unknown' : fallback;
}

/**
 * The key types known for a host, in the files' order: what to ask a server for first, so that it does not show a key that
 * cannot be checked.
 */
export function knownKeyTypes(entries: readonly KnownHostEntry[], host: string, port: number): string[] {
  const types = lookupNames(host, port).flatMap((name) =>
    entries.filter((entry) => entry.marker === 'none' && matchesHost(entry.hosts, name)).map((entry) => entry.type),
  );
  return [...new Set(types)];
}

/** The first certificate authority that is declared for a host, or undefined. */
export function certificateAuthority(entries: readonly KnownHostEntry[], host: string, port: number): KnownHostEntry | undefined {
  const [name] = lookupNames(host, port);
  return entries.find((entry) => entry.marker === 'cert-authority' && matchesHost(entry.hosts, name));
}

function lookupNames(host: string, port: number): [string] | [string, string] {
  const name = host.toLowerCase();
  return port === 22 ? [name] : [`[${name}]:${port}`, name];
}

function checkName(entries: readonly KnownHostEntry[], name: string, key: Buffer): HostKeyVerdict {
  const here = entries.filter((entry) => matchesHost(entry.hosts, name));
  if (here.some((entry) => entry.marker === 'revoked' && entry.key.equals(key))) return 'revoked';
  const known = here.filter((entry) => entry.marker === 'none');
  if (known.some((entry) => entry.key.equals(key))) return 'match';
  return known.some((entry) => entry.type === keyType(key)) ? 'changed' : 'unknown';
}

/** Whether a known_hosts host field (pattern list or hashed name) covers `name`, which is lower case. */
export function matchesHost(hosts: string, name: string): boolean {
  if (hosts.startsWith('|')) return matchesHashed(hosts, name);
  let matched = false;
  for (const pattern of hosts.toLowerCase().split(',')) {
    if (pattern.startsWith('!')) {
      if (matchesPattern(pattern.slice(1), name)) return false;
    } else if (matchesPattern(pattern, name)) matched = true;
  }
  return matched;
}

function matchesHashed(field: string, name: string): boolean {
  const [, version, salt, hash] = field.split('|');
  if (version !== '1' || !salt || !hash) return false;
  const expected = Buffer.from(hash, 'base64');
  const actual = createHmac('sha1', Buffer.from(salt, 'base64')).update(name).digest();
  return expected.length === actual.length && timingSafeEqual(expected, actual);
}

// Iterative, so that a pattern of many stars cannot take exponential time as a regular expression could.
function matchesPattern(pattern: string, name: string): boolean {
  let [p, n, star, retry] = [0, 0, -1, 0];
  while (n < name.length) {
    if (pattern[p] === '*') [star, retry] = [p++, n];
    else if (p < pattern.length && (pattern[p] === '?' || pattern[p] === name[n])) [p, n] = [p + 1, n + 1];
    else if (star >= 0) [p, n] = [star + 1, ++retry];
    else return false;
  }
  while (pattern[p] === '*') p++;
  return p === pattern.length;
}

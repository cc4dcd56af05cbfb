import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { HpcsError, systemCode } from '../errors.ts';
import { parseSpiffeId } from '../identity/spiffe-id.ts';
import { iniValues, parseIni } from '../ini.ts';
import { aliasOf, issuerSection, type Issuer } from './issuer-config.ts';
import { defaultLimits, isNetwork } from './limits.ts';

const { text, port, count, seconds, list, boolean, url, trustDomain, vaultNamespace } = iniValues;

const audiences = list.refine((value) => value.length > 0, 'at least one audience');
const spiffeId = text.refine((value) => {
  try {
    return Boolean(parseSpiffeId(value));
  } catch {
    return false;
  }
}, 'a SPIFFE ID');
const isOrigin = (value: string): boolean => URL.canParse(value) && new URL(value).origin === value;
const nodeName = /^[a-z0-9][a-z0-9._-]{0,252}$/;
const selector = /^[a-z0-9_]+:[\x21-\x7e]+$/;

// The original hands this key to a shell word list and writes the empty one as "".
const command = z.string().transform((value) => (value === '""' ? '' : value));

/** Sections and keys of the server's configuration: those of the original, and ours with defaults. */
const schema = z.strictObject({
  'spire-server': z.strictObject({
    address: text,
    port,
    'trust-domain': trustDomain,
    'pre-command': command.optional(),
    'spire-server-bin': z.string().optional(),
    // Documented configurations of the original end this value in a colon. Without it, SPIRE is called with an identity of our own.
    'socket-path': text.transform((value) => value.replace(/:$/, '')).optional(),
    'api-address': z
      .string()
      .regex(/^([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}$/, 'host:port')
      .optional(),
    'join-token-ttl': seconds(60, 86_400).default(300),
    'jwt-svid-ttl': seconds(60, 86_400).default(300),
  }),
  'spire-agent': z
    .strictObject({
      'spire-agent-socket': text.default('/tmp/spire-agent/public/api.sock'),
      'hpcs-server-spiffeid': spiffeId.optional(),
    })
    .prefault({}),
  vault: z.strictObject({
    url,
    'server-role': text,
    'ca-file': text.optional(),
    'allow-insecure-http': boolean.default(false),
    audience: audiences.prefault('vault'),
    namespace: vaultNamespace.optional(),
  }),
  client: z
    .strictObject({
      selectors: list
        .refine((value) => value.every((entry) => selector.test(entry)), 'selectors such as unix:uid:1000')
        .prefault(''),
      audience: audiences.prefault('hpcs-server'),
    })
    .prefault({}),
  // Hosts as SPIFFE IDs take them; lower case only, so that no two differ in case alone.
  nodes: z
    .strictObject({
      allow: list.refine((value) => value.every((host) => nodeName.test(host)), 'host names in lower case').prefault(''),
    })
    .prefault({}),
  listen: z
    .strictObject({
      host: text.default('0.0.0.0'),
      port: port.default(10080),
      url: list.refine((value) => value.every(isOrigin), 'origins such as https://hpcs.example.org:10080').optional(),
      'allow-insecure-http': boolean.default(false),
      'trusted-proxies': list.refine((value) => value.every(isNetwork), 'addresses or networks such as 10.0.0.0/8').prefault(''),
      drain: seconds(0, 300).default(0),
    })
    .prefault({}),
  tls: z
    .strictObject({ 'cert-file': text.optional(), 'key-file': text.optional(), 'x509-svid': boolean.default(false) })
    .optional(),
  limits: z
    .strictObject({
      'requests-per-address': count(1).default(defaultLimits.perAddress),
      'requests-per-client': count(1).default(defaultLimits.perClient),
      connections: count(1).default(defaultLimits.maxConnections),
      'connections-per-address': count(1).default(defaultLimits.maxConnectionsPerAddress),
      'waiting-jobs-per-client': count(1).default(1000),
    })
    .prefault({}),
  monitoring: z.strictObject({ host: text.default('127.0.0.1'), port }).optional(),
  bootstrap: z
    .strictObject({
      'oidc-url': z.url({ protocol: /^https$/, error: 'a URL such as https://oidc.example.org' }).optional(),
      'oidc-ca-file': text.optional(),
      'jwks-url': z.url({ protocol: /^https$/, error: 'a URL such as https://oidc.example.org/keys' }).optional(),
      issuer: text.optional(),
      'admin-socket': text.optional(),
      'agent-id': spiffeId.optional(),
      selectors: list
        .refine((value) => value.every((entry) => selector.test(entry)), 'selectors such as unix:uid:65532')
        .prefault(''),
    })
    .prefault({}),
});

/** The server's configuration, checked and with its defaults. */
export type ServerConfig = z.output<typeof schema> & {
  /** The sections `[issuer <alias>]`. */
  readonly issuers: readonly Issuer[];
};

/** The server's own SPIFFE ID. */
export function ownIdentity(config: ServerConfig): string {
  return (
    config['spire-agent']['hpcs-server-spiffeid'] ?? `spiffe://${config['spire-server']['trust-domain']}/hpcs-server/workload`
  );
}

/** Reads the server's configuration. @throws HpcsError `usage` naming file, section, key and what was expected */
export async function loadServerConfig(file: string): Promise<ServerConfig> {
  let content: string;
  try {
    content = await readFile(file, 'utf8');
  } catch (error) {
    throw new HpcsError(
      'usage',
      'config-unreadable',
      `cannot read the configuration ${file}: ${systemCode(error) ?? 'unknown error'}`,
      {
        cause: error,
        suggestion: 'name another file with --config',
      },
    );
  }
  return parseServerConfig(content, file);
}

/** Parses INI text into a {@link ServerConfig}. @throws HpcsError `usage` with the first thing that is wrong */
export function parseServerConfig(content: string, file: string): ServerConfig {
  const aliases = [...content.matchAll(/^\s*\[([^\]]*)\]/gm)].map(([, name = '']) => aliasOf(name.trim()) ?? '').filter(Boolean);
  const sections = Object.fromEntries(aliases.map((alias) => [`issuer ${alias}`, issuerSection]));
  const suggestion = 'hpcs-server.conf.example explains every section and key';
  // The names of those sections are their owner's; all others must be known.
  const whole: z.ZodType<z.output<typeof schema>> = z.strictObject({ ...schema.shape, ...sections });
  const parsed = parseIni(whole, content, file, suggestion);
  const config = { ...parsed, issuers: issuersOf(parsed, file) };
  const loopback = /^(127\.|localhost$|::1$)/.test(config.listen.host);
  if (config.tls === undefined && !config.listen['allow-insecure-http'] && !loopback) {
    throw new HpcsError(
      'usage',
      'config-invalid',
      `${file}: section [tls] is missing, and clients show their tokens to this server`,
      {
        suggestion:
          'set cert-file and key-file in section [tls], or allow-insecure-http in section [listen] behind a proxy that has TLS',
      },
    );
  }
  const { 'cert-file': cert, 'key-file': key, 'x509-svid': svid } = config.tls ?? { 'x509-svid': true };
  if (svid ? cert !== undefined || key !== undefined : cert === undefined || key === undefined) {
    throw new HpcsError('usage', 'config-invalid', `${file}: section [tls] names not exactly one certificate`, {
      suggestion: 'set cert-file and key-file, or x509-svid = true for that of the SPIRE agent',
    });
  }
  return config;
}

function issuersOf(parsed: object, file: string): Issuer[] {
  const issuers: Issuer[] = [];
  for (const [section, content] of Object.entries(parsed)) {
    const alias = aliasOf(section);
    if (alias === undefined) continue;
    const issuer = { ...(content as z.output<typeof issuerSection>), alias };
    const other = issuers.find(({ url }) => url === issuer.url);
    if (other !== undefined) {
      throw new HpcsError('usage', 'config-invalid', `${file}: the issuers ${other.alias} and ${alias} have the same url`, {
        suggestion: 'write one section for each issuer; its rules take lists',
      });
    }
    issuers.push(issuer);
  }
  return issuers;
}

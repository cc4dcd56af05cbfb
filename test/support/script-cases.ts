import type { JobPlan } from '../../src/job/plan.ts';
import { renderScript, type ShippedToolKit, type SlurmRequest } from '../../src/job/script.ts';

/** What a batch script is rendered from. */
export interface ScriptCase {
  request: SlurmRequest;
  toolKit: ShippedToolKit;
  plan: JobPlan;
}

const digest = (digit: string): string => digit.repeat(128);

function artefact(name: string, digit: string): JobPlan['image'] {
  return {
    path: `/scratch/project_1/alice/${name}`,
    secretPath: `client_1a2b3c4d5/${name.replace('.', '-')}-${digit.repeat(32)}`,
    role: `client_1a2b3c4d5-${name.replace('.', '-')}-${digit.repeat(32)}`,
    spiffeId: `spiffe://example.org/c/1a2b3c4d5/s/${name.replace('.', '-')}-${digit.repeat(32)}`,
    format: 'openpgp',
    sha512: digest(digit),
    size: 1048576,
  };
}

const plain: ScriptCase = {
  request: {
    jobName: 'hpcs',
    nodes: 1,
    partition: 'standard',
    time: '01:00:00',
    account: 'project_1',
    nodelist: undefined,
    workdir: '/scratch/project_1/alice',
    exclusive: false,
    memory: undefined,
  },
  toolKit: { path: '/scratch/project_1/alice/.hpcs/tool-kit-0123456789abcdef.tar.gz', sha256: '0123456789abcdef'.repeat(4) },
  plan: {
    version: 1,
    name: 'hpcs',
    workdir: '/scratch/project_1/alice',
    scratch: null,
    apptainer: 'apptainer',
    image: artefact('image.sif', 'a'),
    data: artefact('data.tgz', 'b'),
    job: {
      secretPath: `client_1a2b3c4d5/job-hpcs-${'c'.repeat(32)}`,
      role: `client_1a2b3c4d5-job-hpcs-${'c'.repeat(32)}`,
      spiffeId: `spiffe://example.org/c/1a2b3c4d5/s/job-hpcs-${'c'.repeat(32)}`,
    },
    arguments: [],
    flags: [],
    inputScripts: null,
    outputScripts: null,
    results: {
      format: 'openpgp',
      publicKey: '-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nexample\n-----END PGP PUBLIC KEY BLOCK-----\n',
      recipients: [],
    },
    access: {
      mode: 'job',
      ticketHalf: '0f'.repeat(16),
      ticketFile: `/scratch/project_1/alice/.hpcs/ticket-${'9'.repeat(32)}`,
    },
    hpcsServer: { url: 'https://hpcs.example.org:10080', ca: null, allowInsecureHttp: false },
  },
};

const everything: ScriptCase = {
  request: {
    ...plain.request,
    jobName: 'jp2a-1.0',
    nodes: 2,
    nodelist: 'nid[003044-003045]',
    time: '1-00:00:00',
    exclusive: true,
    memory: '4G',
  },
  toolKit: plain.toolKit,
  plan: {
    ...plain.plan,
    name: 'jp2a-1.0',
    scratch: '/local/scratch',
    apptainer: '/opt/apptainer/bin/apptainer',
    data: { ...plain.plan.data, format: 'age', size: undefined },
    arguments: ['/sd-container/encrypted/jp2a_input/image.png', '--width=100', '--output=/sd-container/output/result'],
    flags: ['--env', 'TERM=xterm-256color'],
    inputScripts: { directory: '/scratch/project_1/alice/checks', files: [{ path: 'before.sh', sha256: 'd'.repeat(64) }] },
    outputScripts: { directory: '/scratch/project_1/alice/checks', files: [{ path: 'after.sh', sha256: 'e'.repeat(64) }] },
    access: {
      mode: 'agent',
      vault: { url: 'https://vault.example.org:8200', ca: null, audience: 'vault' },
      agent: { address: 'spire.example.org', port: 8081, trustDomain: 'example.org', trustBundle: '' },
    },
    hpcsServer: {
      url: 'https://hpcs.internal.example.org',
      ca: '-----BEGIN CERTIFICATE-----\nexample\n-----END CERTIFICATE-----\n',
      allowInsecureHttp: false,
    },
  },
};

/** Values that would do harm in a shell, a here-document or a `#SBATCH` line. */
export const hostileArguments = [
  '$(touch pwned)',
  '`touch pwned`',
  '; touch pwned',
  "' ; touch pwned; '",
  '" ; touch pwned; "',
  '\nHPCS_PLAN\ntouch pwned\n',
  'HPCS_PLAN',
  '\r\n#SBATCH --uid=0\r\n',
  '\\',
  '\0',
  '\u2028\u0085é😀\uD800',
  '${HOME}',
  '!!',
  '-f',
  '',
];

const hostile: ScriptCase = {
  request: plain.request,
  toolKit: {
    path: '/scratch/$(touch${IFS}pwned)/`touch${IFS}pwned`/;touch${IFS}pwned;/*/&|<>(){}~!/tool-kit.tar.gz',
    sha256: plain.toolKit.sha256,
  },
  plan: {
    ...plain.plan,
    scratch: '/$(touch${IFS}pwned)',
    arguments: hostileArguments,
    flags: hostileArguments,
    inputScripts: { directory: '/\nHPCS_PLAN\n', files: hostileArguments.map((path) => ({ path, sha256: 'd'.repeat(64) })) },
    results: { format: 'openpgp', publicKey: '\nHPCS_PLAN\n', recipients: ['\nHPCS_PLAN\n'] },
  },
};

/** The jobs whose scripts are golden files. */
export const scriptCases = { plain, everything, hostile } as const;

/** Renders one of them, with changes. */
export function render(
  base: ScriptCase,
  changes: { request?: Partial<SlurmRequest>; toolKit?: Partial<ShippedToolKit>; plan?: Partial<JobPlan> } = {},
): string {
  return renderScript(
    { ...base.request, ...changes.request },
    { ...base.toolKit, ...changes.toolKit },
    { ...base.plan, ...changes.plan },
  );
}

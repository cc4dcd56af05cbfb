import { HpcsError } from '../errors.ts';
import { assignments } from '../shell.ts';
import type { JobPlan } from './plan.ts';

/** What Slurm is asked for. Times and counts are Slurm's own forms. */
export interface SlurmRequest {
  jobName: string;
  nodes: number;
  partition: string;
  time: string;
  account: string;
  nodelist: string | undefined;
  workdir: string;
  exclusive: boolean;
}

/** The tool kit as it lies on the site: one archive, whose digest the script holds. */
export interface ShippedToolKit {
  path: string;
  sha256: string;
}

/** Seconds before the time limit at which the job is asked to end, so that it can still seal what it has. */
const graceBeforeLimit = 60;

// Fixed text: shellcheck reads it in the tests. Values stand above it as quoted variables, and in the plan below it.
const body = `
set -euo pipefail
umask 077
ulimit -c 0
export LC_ALL=C.UTF-8
PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
unset NODE_OPTIONS NODE_EXTRA_CA_CERTS LD_PRELOAD LD_LIBRARY_PATH BASH_ENV

# The tool kit is copied to private storage of this node first, checked there, and only then run.
private=$(mktemp -d "$node_directory/hpcs.$(id -u).$SLURM_JOB_ID.XXXXXX")
trap 'rm -rf "$private"' EXIT
cp -- "$tool_kit" "$private/kit.tar.gz" || { echo "hpcs: error: cannot read the tool kit $tool_kit" >&2; exit 5; }
echo "$tool_kit_sha256  $private/kit.tar.gz" | sha256sum --check --status ||
  { echo "hpcs: error: tool-kit-altered: the tool kit $tool_kit is not the one this job was submitted with" >&2; exit 7; }
tar -C "$private" -xzf "$private/kit.tar.gz"
rm -f "$private/kit.tar.gz"

# From here one program does the rest: identity, keys, mounts, scripts, application, results, clean-up.
# It replaces this shell, so that Slurm's signals reach it, and removes the private directory itself.
trap - EXIT
export HPCS_PRIVATE="$private"
exec "$private/bin/node" "$private/hpcs-node.mjs" run <<'HPCS_PLAN'
`;

/**
 * The batch script of one job. Pure: the same request gives the same text.
 *
 * It holds no secret. `#SBATCH` lines come from checked values, everything of the user's stands in quoted variables or in the plan,
 * a JSON document in a quoted here-document (JSON escapes line breaks, so no value can end it).
 *
 * @throws HpcsError `usage` for a value that a `#SBATCH` line cannot carry
 */
export function renderScript(request: SlurmRequest, toolKit: ShippedToolKit, plan: JobPlan): string {
  const directives: [string, string][] = [
    ['job-name', word('job name', request.jobName)],
    ['nodes', String(request.nodes)],
    ['partition', word('partition', request.partition)],
    ['time', word('time', request.time)],
    ['account', word('account', request.account)],
    ...(request.nodelist === undefined ? [] : [['nodelist', word('nodelist', request.nodelist)] satisfies [string, string]]),
    ['chdir', path('workdir', request.workdir)],
    ['output', `${path('workdir', request.workdir)}/%x-%j.out`],
    ['open-mode', 'append'],
    ['export', 'NONE'],
    ['signal', `B:TERM@${graceBeforeLimit}`],
  ];
  const flags = ['no-requeue', ...(request.exclusive ? ['exclusive'] : [])];
  return [
    '#!/bin/bash\n',
    ...directives.map(([name, value]) => `#SBATCH --${name}=${value}\n`),
    ...flags.map((name) => `#SBATCH --${name}\n`),
    '\n',
    assignments({ tool_kit: toolKit.path, tool_kit_sha256: toolKit.sha256, node_directory: plan.scratch ?? '/tmp' }),
    body,
    JSON.stringify(plan, null, 1),
    '\nHPCS_PLAN\n',
  ].join('');
}

/** Where Slurm writes the log of a job, as the script's `--output` says. */
export function logPath(workdir: string, jobName: string, jobId: string): string {
  return `${workdir}/${jobName}-${jobId}.out`;
}

/** Where a job leaves its results: never the same for two jobs or two runs of one. */
export function resultDirectory(workdir: string, jobName: string, jobId: string, restart: number): string {
  return `${workdir}/${jobName}-${jobId}${restart === 0 ? '' : `.${restart}`}`;
}

function word(what: string, value: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9_.:,@[\]+-]*$/.test(value)) return value;
  throw new HpcsError('usage', 'bad-value', `the ${what} ${JSON.stringify(value)} holds characters that a Slurm directive cannot carry`, {
    suggestion: 'use letters, digits and _ . : , @ [ ] + -',
  });
}

// A percent sign would be a pattern in --output; quotes and white space are syntax in a directive.
function path(what: string, value: string): string {
  if (/^\/[^\s"'\\%#\0]*$/.test(value)) return value.replace(/\/+$/, '') || '/';
  throw new HpcsError('usage', 'bad-value', `the ${what} ${JSON.stringify(value)} is not an absolute path without spaces, quotes, % or #`, {
    suggestion: 'name another directory with --workdir',
  });
}

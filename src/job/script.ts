import { HpcsError } from '../errors.ts';
import { assignments } from '../shell.ts';
import { secondsOf } from '../site/slurm.ts';
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
  /** Memory a node, in Slurm's form (`4G`). */
  memory: string | undefined;
}

/** The tool kit as it lies on the site: one archive, whose digest the script holds. */
export interface ShippedToolKit {
  path: string;
  sha256: string;
}

/**
 * Seconds before the time limit at which the job is asked to end, so that it can still seal what it has; of a short limit a quarter,
 * so that it has time to begin. Slurm counts limits in whole minutes, rounded up, and may ask earlier: by half a minute, as measured.
 *
 * @see sbatch(1), --signal
 */
function graceBefore(timeLimit: string): number {
  return Math.min(60, Math.ceil(secondsOf(timeLimit) / 60) * 15);
}

// Fixed text: shellcheck reads it in the tests. Values stand above it as quoted variables, and in the plan below it.
const body = `
set -euo pipefail
umask 077
ulimit -c 0

# Of the login environment only these go further: any other could load code, or turn the checks of certificates off.
for name in $(compgen -A function); do unset -f "$name"; done
for name in $(compgen -e); do
  case $name in
    SLURM_JOB_ID | SLURM_RESTART_COUNT | SLURMD_NODENAME) ;;
    HTTP_PROXY | HTTPS_PROXY | NO_PROXY | http_proxy | https_proxy | no_proxy) ;;
    *) export -n "\${name?}" ;;
  esac
done
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

# Slurm makes the log readable to others where the submitter's mask does.
for log in "/proc/$$/fd/1" "/proc/$$/fd/2"; do
  if [ -f "$log" ] && [ -O "$log" ]; then chmod go= "$log" || true; fi
done

fail() { # EXIT-CODE MESSAGE
  echo "hpcs: error: $2" >&2
  exit "$1"
}

# A job that was killed could not remove its directory. What is in it is no secret: the tool kit, and ciphertext without a key.
for left in "$node_directory/hpcs.$(id -u)."*; do
  if [ -O "$left" ] && [ ! -L "$left" ] && read -r pid node <"$left/pid" 2>/dev/null &&
    [ "$node" = "\${SLURMD_NODENAME:-}" ] && ! kill -0 "$pid" 2>/dev/null; then
    { chmod -R u+rwX -- "$left" && rm -rf -- "$left"; } 2>/dev/null || true
  fi
done

# The tool kit is copied to private storage of this node first, checked there, and only then run.
private=$(mktemp -d "$node_directory/hpcs.$(id -u).$SLURM_JOB_ID.XXXXXX") ||
  fail 5 "node-directory-unwritable: cannot write to $node_directory on this node"
trap 'rm -rf "$private"' EXIT
echo "$$ \${SLURMD_NODENAME:-}" >"$private/.pid"
mv -- "$private/.pid" "$private/pid"
cp -- "$tool_kit" "$private/kit.tar.gz" ||
  fail 5 "tool-kit-unreadable: cannot copy the tool kit $tool_kit to this node"
[ "$(sha256sum <"$private/kit.tar.gz")" = "$tool_kit_sha256  -" ] ||
  fail 7 "tool-kit-altered: the tool kit $tool_kit is not the one this job was submitted with"
tar -C "$private" --no-same-owner --no-same-permissions -xzf "$private/kit.tar.gz" ||
  fail 5 "tool-kit-unpacking: cannot unpack the tool kit in $node_directory on this node"
rm -f "$private/kit.tar.gz"
[ -x "$private/bin/node" ] ||
  fail 5 "node-directory-noexec: programs cannot be run from $node_directory on this node"

# From here one program does the rest: identity, keys, mounts, scripts, application, results, clean-up.
# It replaces this shell, so that Slurm's signals reach it, and removes the private directory itself.
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
  return [
    '#!/bin/bash\n',
    ...directives(request).map((directive) => `#SBATCH --${directive}\n`),
    '\n',
    assignments({
      tool_kit: path('tool kit', toolKit.path, 'tool-kit-directory in the configuration'),
      tool_kit_sha256: toolKit.sha256,
      node_directory: path('node-scratch', plan.scratch ?? '/tmp', 'node-scratch in the configuration'),
    }),
    body,
    JSON.stringify(plan, null, 1),
    '\nHPCS_PLAN\n',
  ].join('');
}

function directives(request: SlurmRequest): string[] {
  const workdir = path('workdir', request.workdir, '--workdir');
  const values: [string, string][] = [
    ['job-name', jobName(request.jobName)],
    ['nodes', count('number of nodes', request.nodes)],
    ['partition', word('partition', request.partition)],
    ['time', word('time', request.time)],
    ['account', word('account', request.account)],
    ...(request.nodelist === undefined ? [] : [['nodelist', word('nodelist', request.nodelist)] satisfies [string, string]]),
    ...(request.memory === undefined ? [] : [['mem', word('memory', request.memory)] satisfies [string, string]]),
    ['chdir', workdir],
    ['output', `${workdir}/%x-%j.out`],
    ['open-mode', 'append'],
    ['export', 'NONE'],
    ['signal', `B:TERM@${graceBefore(request.time)}`],
  ];
  const flags = ['no-requeue', ...(request.exclusive ? ['exclusive'] : [])];
  return [...values.map(([name, value]) => `${name}=${value}`), ...flags];
}

/**
 * Checks what {@link renderScript} would refuse, before anything is made for the job.
 *
 * @throws HpcsError `usage` for a value that a `#SBATCH` line cannot carry
 */
export function checkRequest(request: SlurmRequest): void {
  directives(request);
}

/** Where Slurm writes the log of a job, as the script's `--output` says. */
export function logPath(workdir: string, jobName: string, jobId: string): string {
  return `${workdir}/${jobName}-${jobId}.out`;
}

/** Where a job leaves its results: never the same for two jobs or two runs of one. */
export function resultDirectory(workdir: string, jobName: string, jobId: string, restart: number): string {
  return `${workdir}/${jobName}-${jobId}${restart === 0 ? '' : `.${restart}`}`;
}

// It is part of file names on the site, too.
function jobName(value: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$/.test(value)) return value;
  throw badValue(
    `the job name ${JSON.stringify(value)} is not a name of at most 100 plain characters`,
    'use letters, digits and _ . + -',
  );
}

function word(what: string, value: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9_.:,@[\]+-]*$/.test(value)) return value;
  throw badValue(
    `the ${what} ${JSON.stringify(value)} holds characters that a Slurm directive cannot carry`,
    'use letters, digits and _ . : , @ [ ] + -',
  );
}

function count(what: string, value: number): string {
  if (Number.isSafeInteger(value) && value >= 1) return String(value);
  throw badValue(`the ${what} is not a whole number from 1`, 'give it as --nodes 1');
}

// A percent sign would be a pattern in --output; quotes, white space and number signs are syntax in a directive.
function path(what: string, value: string, source: string): string {
  if (/^\/[^\s"'\\%#\p{Cc}]*$/u.test(value)) return value.replace(/\/+$/, '') || '/';
  throw badValue(
    `the ${what} ${JSON.stringify(value)} is not an absolute path without spaces, quotes, backslashes, % or #`,
    `name another directory as ${source}`,
  );
}

function badValue(message: string, suggestion: string): HpcsError {
  return new HpcsError('usage', 'bad-value', message, { suggestion });
}

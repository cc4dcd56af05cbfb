import { HpcsError } from '../errors.ts';
import { pause } from '../pause.ts';
import { assignments } from '../shell.ts';
import { run } from './files.ts';
import { isCut } from './ssh-errors.ts';
import type { Transport } from './transport.ts';

/** What the scheduler says about a job. */
export interface JobState {
  /** `PENDING`, `RUNNING`, `COMPLETING`, `COMPLETED`, `FAILED`, `TIMEOUT`, … */
  state: string;
  /** Exit code of the batch script; 0 until it ended. */
  exitCode: number;
  /** Number of the signal that ended it, or 0. */
  signal: number;
  /** Why it waits or ended: `None`, `Resources`, `NonZeroExitCode`, … */
  reason: string;
  startTime?: Date;
  /** Nodes in Slurm's list form, empty while it waits. */
  nodes: string;
  /** Path of its log; empty where only the accounting still knows the job. */
  stdoutPath: string;
  /** How often it was started again. */
  restarts: number;
}

/** States that a job does not leave, unless it is requeued. @see squeue(1), JOB STATE CODES */
const finalStates = new Set([
  'BOOT_FAIL',
  'CANCELLED',
  'COMPLETED',
  'DEADLINE',
  'FAILED',
  'LAUNCH_FAILED',
  'NODE_FAIL',
  'OUT_OF_MEMORY',
  'PREEMPTED',
  'RECONFIG_FAIL',
  'REVOKED',
  'TIMEOUT',
]);

/** Whether a job in this state has ended. */
export function isFinal(state: string): boolean {
  return finalStates.has(state);
}

/** States in which a job may have nodes already, and its script has not begun. @see squeue(1), JOB STATE CODES */
const earlyStates = new Set(['PENDING', 'CONFIGURING', 'POWER_UP_NODE']);

/**
 * How far a job is whose script does something: `early` when that cannot have begun, `running` while it goes on. All else is `other`:
 * what is about to end (COMPLETING), stands still (SUSPENDED), or is not known.
 */
export function stageOf(state: string): 'early' | 'running' | 'other' {
  if (earlyStates.has(state)) return 'early';
  return state === 'RUNNING' ? 'running' : 'other';
}

/** How long a scheduler or a network that does not answer is waited for, in milliseconds. */
const patience = 10 * 60 * 1000;

// Many sites set the path of Slurm for login shells only. What such a shell prints beside it is not looked at.
const findSlurm = `if ! command -v sbatch >/dev/null 2>&1; then
  found=$(exec </dev/null; bash -lc 'command -v sbatch' 2>/dev/null | tail -n 1)
  case $found in /*) PATH=\${found%/*}:$PATH; export PATH ;; esac
fi
`;

async function runSlurm(
  transport: Transport,
  script: string,
  options: { signal?: AbortSignal | undefined; input?: Iterable<Uint8Array> },
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const answer = await run(transport, findSlurm + script, options);
  if (answer.code === 127) {
    throw new HpcsError('site', 'slurm-missing', 'the site knows no command sbatch', {
      suggestion: 'check that address in section [supercomputer] is a login node of a site with Slurm',
    });
  }
  if (
    answer.code !== 0 &&
    /Unable to contact slurm controller|Connection refused|Socket timed out|slurm_persist_conn/.test(answer.stderr)
  ) {
    throw new HpcsError('job', 'slurm-unreachable', `the scheduler does not answer: ${said(answer.stderr)}`, {
      suggestion: "try again later, and see the site's status page",
    });
  }
  if (isCutShort(answer.code)) throw cutShort('a command of Slurm');
  return answer;
}

function cutShort(what: string): HpcsError {
  return new HpcsError('site', 'slurm-cut-short', `${what} was ended on the site before it had answered`, {
    suggestion: 'look what it has done all the same, and ask the site why processes are ended on its login node',
  });
}

// What a signal ended may have reached the scheduler. A shell makes 128 and its number of the signal, of which there are 64.
function isCutShort(code: number | null): boolean {
  return code === null || (code > 128 && code <= 128 + 64);
}

/** Slurm's own words, without the names of its programs. */
function said(stderr: string): string {
  const lines = stderr
    .split('\n')
    .map((line) => line.replace(/^(sbatch|scontrol|scancel|sacct|slurm_\w+ error): ?(error: ?)?/, '').trim());
  return [...new Set(lines)].filter(Boolean).slice(0, 5).join('; ') || 'no reason given';
}

/**
 * Submits a batch script, which travels on sbatch's standard input and lies in no file of ours.
 *
 * @param options.hold let it wait until it is released with {@link release}
 * @returns the job id, without the cluster's name
 * @throws HpcsError `job` with sbatch's own words when it refuses, `site` when the connection breaks or sbatch is ended
 */
export async function submit(
  transport: Transport,
  script: string,
  options: { hold?: boolean; signal?: AbortSignal | undefined } = {},
): Promise<string> {
  const { code, stdout, stderr } = await runSlurm(transport, `exec sbatch --parsable${options.hold === true ? ' --hold' : ''}`, {
    input: [Buffer.from(script, 'utf8')],
    signal: options.signal,
  });
  if (code !== 0) throw submitError(stderr);
  return parseJobId(stdout);
}

/** The job id in what `sbatch --parsable` prints: the last line, up to a semicolon and the cluster's name. */
export function parseJobId(stdout: string): string {
  const id = /^(\d+)(?:;\S*)?$/.exec(stdout.trim().split('\n').at(-1)?.trim() ?? '')?.[1];
  if (id !== undefined) return id;
  throw new HpcsError('job', 'no-job-id', `sbatch printed no job id but ${JSON.stringify(stdout.slice(0, 200))}`, {
    suggestion: 'look for the job with squeue before submitting again',
  });
}

// What Slurm's words are about, the code for that, and what to do.
const hints: ReadonlyArray<readonly [RegExp, string, string]> = [
  [/partition/i, 'sbatch-partition', 'choose another --partition; sinfo on the site lists them'],
  [/account/i, 'sbatch-account', 'choose another --account; ask the site which ones are yours'],
  [/memory/i, 'sbatch-memory', 'ask for less memory, or for another partition'],
  [/time limit|--time/i, 'sbatch-time', 'choose a shorter --time, written as HH:MM:SS; sinfo on the site shows the limits'],
  [
    /node (?:name|configuration|count)|nodelist/i,
    'sbatch-nodes',
    'choose other --nodes or --nodelist; sinfo on the site lists them',
  ],
  [/qos/i, 'sbatch-qos', 'ask the site which QOS your account may use'],
];

function submitError(stderr: string): HpcsError {
  const text = said(stderr);
  const [, code, suggestion] = hints.find(([pattern]) => pattern.test(text)) ?? [
    undefined,
    'sbatch-refused',
    'correct the options, then submit again',
  ];
  return new HpcsError('job', code, `sbatch refused the job: ${text}`, { suggestion });
}

/** Whether an error of {@link submit} says that there is no job, because the scheduler did not take it. */
export function isRefusal(error: unknown): boolean {
  return error instanceof HpcsError && (error.code.startsWith('sbatch-') || error.code === 'slurm-missing');
}

/**
 * What the scheduler, or else the accounting, knows about a job; undefined where neither knows it.
 *
 * @throws HpcsError `job` when the scheduler does not answer
 */
export async function jobState(
  transport: Transport,
  id: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<JobState | undefined> {
  const script = `${assignments({ id: checkId(id) })}SLURM_TIME_FORMAT=%s
export SLURM_TIME_FORMAT
answer=$(scontrol -o show job "$id" 2>&1) && { printf 'scontrol\\n%s\\n' "$answer"; exit 0; }
code=$?
[ "$code" -gt 128 ] || code=1
case $answer in *'nvalid job id'*) ;; *) printf '%s\\n' "$answer" >&2; exit "$code" ;; esac
command -v sacct >/dev/null 2>&1 || exit 0
answer=$(sacct -P -n -X -j "$id" -o State,ExitCode,Start,NodeList,Reason 2>/dev/null) || {
  code=$?
  [ "$code" -gt 128 ] || exit 0
  exit "$code"
}
printf 'sacct\\n%s\\n' "$answer"`;
  const { code, stdout, stderr } = await runSlurm(transport, script, options);
  if (code !== 0)
    throw new HpcsError('job', 'slurm-failed', `the scheduler tells nothing about job ${id}: ${said(stderr)}`, {
      suggestion: `try again later; scontrol show job ${id} on the site shows whether it answers`,
    });
  const [source, ...lines] = stdout.trim().split('\n');
  const [line] = source === 'scontrol' ? lines.filter((text) => text.startsWith('JobId=')) : lines;
  if (line === undefined) return undefined;
  return source === 'scontrol' ? parseScontrol(line) : parseSacct(line);
}

function checkId(id: string): string {
  if (/^\d+$/.test(id)) return id;
  throw new HpcsError('usage', 'bad-job-id', `${JSON.stringify(id)} is not a job id`, {
    suggestion: 'a job id is a number, as sbatch prints it',
  });
}

/** One line of `scontrol -o show job`: `Key=Value` pairs whose values may hold spaces. The first of a key counts. */
export function parseScontrol(line: string): JobState {
  // The job's name stands before all that is read here and may hold anything, other keys too.
  const rest = line.replace(/^.*? (?=UserId=\S+\(\d+\) GroupId=)/, '');
  const fields = new Map<string, string>();
  for (const part of rest.split(/ (?=[A-Z][A-Za-z]*(?:[:/][A-Za-z]+)*=)/)) {
    const split = part.indexOf('=');
    const key = part.slice(0, split);
    if (split > 0 && !fields.has(key)) fields.set(key, part.slice(split + 1).trim());
  }
  const nodes = fields.get('NodeList') ?? '';
  return {
    ...stateAndCode(fields.get('JobState') ?? 'UNKNOWN', fields.get('ExitCode') ?? '0:0'),
    reason: fields.get('Reason') ?? 'None',
    ...startOf(fields.get('StartTime')),
    nodes: nodes === '(null)' ? '' : nodes,
    stdoutPath: fields.get('StdOut') ?? '',
    restarts: Number(fields.get('Restarts') ?? 0),
  };
}

/** One line of `sacct -P -n -X -o State,ExitCode,Start,NodeList,Reason`. */
export function parseSacct(line: string): JobState {
  const [state = 'UNKNOWN', code = '0:0', start, nodes = '', reason = 'None'] = line.split('|');
  return {
    ...stateAndCode(state, code),
    reason: reason || 'None',
    ...startOf(start),
    nodes: nodes === 'None assigned' ? '' : nodes,
    stdoutPath: '',
    restarts: 0,
  };
}

// `CANCELLED by 1000` in the accounting; ExitCode is code:signal.
function stateAndCode(state: string, exit: string): Pick<JobState, 'state' | 'exitCode' | 'signal'> {
  const [exitCode = 0, signal = 0] = exit.split(':').map(Number);
  return { state: state.split(' ')[0] ?? state, exitCode, signal };
}

// Seconds since 1970 where SLURM_TIME_FORMAT is heeded; else the site's local time without a zone, which is read as ours.
function startOf(text: string | undefined): { startTime?: Date } {
  const time = new Date(/^\d+$/.test(text ?? '') ? Number(text) * 1000 : (text ?? ''));
  return Number.isNaN(time.getTime()) ? {} : { startTime: time };
}

/** Cancels a job; one that has ended already is no error. @throws HpcsError `job` */
export async function cancel(
  transport: Transport,
  id: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<void> {
  const { code, stderr } = await runSlurm(transport, `${assignments({ id: checkId(id) })}exec scancel "$id"`, options);
  if (code === 0 || /already completing or completed/i.test(stderr)) return;
  throw new HpcsError('job', 'cancel-failed', `job ${id} could not be cancelled: ${said(stderr)}`, {
    suggestion: 'check the job id, and that the job is yours',
  });
}

/** Lets a job that was submitted on hold start. @throws HpcsError `job` */
export async function release(
  transport: Transport,
  id: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<void> {
  const { code, stderr } = await runSlurm(transport, `${assignments({ id: checkId(id) })}exec scontrol release "$id"`, options);
  if (code === 0) return;
  const text = said(stderr);
  const [, , suggestion] = hints.find(([pattern]) => pattern.test(text)) ?? [];
  throw new HpcsError('job', 'release-failed', `job ${id} could not be released: ${text}`, {
    suggestion: suggestion ?? 'ask the site what that means; then submit again',
  });
}

/** The names in a node list such as `node[01-03,07]`. @throws HpcsError `usage` when Slurm cannot read it */
export async function expandNodes(
  transport: Transport,
  nodelist: string,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<string[]> {
  if (/^[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*$/.test(nodelist)) return nodelist.split(',');
  const { code, stdout, stderr } = await runSlurm(
    transport,
    `${assignments({ nodelist })}exec scontrol show hostnames "$nodelist"`,
    options,
  );
  const names = stdout.split('\n').filter(Boolean);
  if (code === 0 && names.length > 0) return names;
  throw new HpcsError('usage', 'bad-node-list', `${JSON.stringify(nodelist)} is not a list of nodes: ${said(stderr)}`, {
    suggestion: 'write nodes as a,b or node[01-03]',
  });
}

// Reasons that pass by themselves (Priority, Resources, limits on all jobs together, a partition that is down) are not among them.
const lastingReasons =
  /^(AccountNotAllowed|BadConstraints|DependencyNeverSatisfied|InvalidAccount|InvalidQOS|JobHeldAdmin|JobHeldUser|PartitionInactive|PartitionNodeLimit|PartitionTimeLimit|QOSNotAllowed|(Assoc|QOS)Max\w*Per(Job|Node)\w*|(Assoc|QOS)MaxWallDurationPerJobLimit)$/;

/**
 * Whether a job waits for what will not come unless somebody changes the job or the limits.
 *
 * @see Slurm documentation, "Job Reason Codes"
 */
export function willNotStart({ state, reason }: Pick<JobState, 'state' | 'reason'>): boolean {
  return state === 'PENDING' && lastingReasons.test(reason);
}

/** Options of {@link waitForEnd}. */
export interface WaitOptions {
  /** Told of the first state and of every change of state or reason. */
  onState?: (state: JobState) => void;
  signal?: AbortSignal | undefined;
  /** Shortest and longest time between two questions, in milliseconds. By default 1 s, growing to 10 s. */
  interval?: { first: number; longest: number };
}

/**
 * Waits until a job has ended, through short failures of network and scheduler.
 *
 * @throws HpcsError `job` when the site knows the job no longer, the signal's reason when aborted
 */
export async function waitForEnd(transport: Transport, id: string, options: WaitOptions = {}): Promise<JobState> {
  const { first, longest } = options.interval ?? { first: 1000, longest: 10_000 };
  let interval = first;
  let last: JobState | undefined;
  let failingSince: number | undefined;
  for (;;) {
    try {
      const state = await jobState(transport, id, { signal: options.signal });
      if (state === undefined) throw vanished(id, last);
      failingSince = undefined;
      if (state.state !== last?.state || state.reason !== last.reason) {
        options.onState?.(state);
        interval = first;
      }
      last = state;
      if (isFinal(state.state)) return state;
    } catch (error) {
      failingSince ??= Date.now();
      if (!isPassing(error) || Date.now() - failingSince > patience) throw error;
    }
    await pause(interval, options.signal);
    interval = Math.min(longest, interval * 1.5);
  }
}

function vanished(id: string, last: JobState | undefined): HpcsError {
  return new HpcsError(
    'job',
    'job-unknown',
    `the site does not know job ${id}${last === undefined ? '' : ` any more; it was ${last.state}`}`,
    {
      suggestion: last === undefined ? 'check the job id and the site' : 'its log and its results tell how it ended',
    },
  );
}

/** Whether a trouble ends by itself more often than not. */
export function isPassing(error: unknown): boolean {
  return (
    isCut(error) ||
    (error instanceof HpcsError && ['session-refused', 'slurm-unreachable', 'slurm-cut-short'].includes(error.code))
  );
}

/** Options of {@link followLog}. */
export interface FollowOptions {
  /** Settles when nothing more will be written: {@link waitForEnd}. Its rejection is passed on. */
  until: Promise<unknown>;
  /** Receives the log's bytes in their order, each once. */
  onBytes: (bytes: Uint8Array) => void;
  signal?: AbortSignal | undefined;
  /** Shortest and longest time between two looks, in milliseconds. By default 1 s, growing to 5 s while nothing comes. */
  interval?: { first: number; longest: number };
}

/**
 * Streams a log from its beginning until the job has ended and every byte was delivered. The file need not be there yet.
 *
 * @throws what `until` rejects with; HpcsError `site` when the file cannot be read
 */
export async function followLog(transport: Transport, path: string, options: FollowOptions): Promise<void> {
  const { first, longest } = options.interval ?? { first: 1000, longest: 5000 };
  const over = new AbortController();
  const end = (): void => over.abort();
  options.until.then(end, end);
  let offset = 0;
  let interval = first;
  let failingSince: number | undefined;
  // A shared file system may show the last bytes a moment after the scheduler shows the end.
  for (let quietLooks = 0; quietLooks < 2;) {
    const ended = over.signal.aborted;
    let grown = false;
    try {
      for await (const bytes of tail(transport, path, offset, options.signal)) {
        offset += bytes.length;
        grown = true;
        options.onBytes(bytes);
      }
      failingSince = undefined;
      quietLooks = ended && !grown ? quietLooks + 1 : 0;
    } catch (error) {
      failingSince ??= Date.now();
      if (!isPassing(error) || Date.now() - failingSince > patience) throw error;
    }
    if (quietLooks >= 2) break;
    interval = grown ? first : Math.min(longest, interval * 1.5);
    await pause(ended ? Math.min(first, 500) : interval, options.signal, ended ? undefined : over.signal);
  }
  await options.until;
}

async function* tail(
  transport: Transport,
  path: string,
  offset: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  // Nothing is there until the job's first output, and on a shared file system until the login node sees it.
  const script = `${assignments({ path, from: String(offset + 1) })}[ -e "$path" ] || exit 0\nexec tail -c "+$from" -- "$path"`;
  await using process = transport.exec(script, { signal });
  yield* process.stdout;
  const { code, stderr } = await process.finished;
  if (isCutShort(code)) throw cutShort('reading a log');
  if (code !== 0) {
    throw new HpcsError('site', 'log-unreadable', `the log ${path} cannot be read on the site: ${stderr.trim().slice(0, 300)}`, {
      suggestion: 'the job goes on; look at its log on the site',
    });
  }
}

/**
 * A time limit that sbatch takes: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes,
 * days-hours:minutes:seconds, or UNLIMITED. Quotes around it, as old compose files have them, are taken away; parts above their
 * usual range (`00:60:00`) are Slurm's to accept, and it does.
 *
 * @returns the limit as sbatch takes it
 * @throws HpcsError `usage`
 * @see sbatch(1), --time
 */
export function parseTimeLimit(value: string): string {
  const text = value.trim().replace(/^(["'])(.*)\1$/, '$2').trim(); // prettier-ignore
  if (/^(unlimited|infinite)$/i.test(text)) return text.toUpperCase();
  if (/^(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})$/.test(text) && /[1-9]/.test(text)) return text;
  throw new HpcsError('usage', 'bad-time-limit', `${JSON.stringify(value)} is not a time limit`, {
    suggestion: 'write it as HH:MM:SS or D-HH:MM:SS',
  });
}

/** Seconds of a time limit as {@link parseTimeLimit} gives it; Infinity for none. */
export function secondsOf(timeLimit: string): number {
  const [, days, clock] = /^(?:(\d+)-)?(\d+(?::\d+){0,2})$/.exec(timeLimit) ?? [];
  if (clock === undefined) return Infinity;
  const parts = clock.split(':').map(Number);
  // Beside days stand hours first; alone, minutes, unless all three are there.
  const [hours = 0, minutes = 0, seconds = 0] = days === undefined && parts.length < 3 ? [0, ...parts] : parts;
  return ((Number(days ?? 0) * 24 + hours) * 60 + minutes) * 60 + seconds;
}

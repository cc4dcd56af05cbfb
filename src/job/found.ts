import { HpcsError } from '../errors.ts';
import { assignments } from '../shell.ts';
import { run } from '../site/files.ts';
import type { Transport } from '../site/transport.ts';
import { resultFiles } from './manifest.ts';
import { resultDirectory } from './script.ts';

/** A job as far as its results on the site are found by it. */
export interface JobOnSite {
  jobId: string;
  name: string;
  workdir: string;
}

/** What lies on the site of a job's results. */
export interface FoundResults {
  /** The result directory of the newest run, whether it exists or not. */
  directory: string;
  /** How often the scheduler had started that job again: 0 for all jobs of ours, which ask not to be requeued. */
  restart: number;
  /** `whole`: a manifest is there; `partial`: the output volume of a job that runs or was killed; `none`: neither. */
  content: 'whole' | 'partial' | 'none';
}

// A log `<name>-<id>.out` has the same beginning, so only digits count.
const search = `
newest=0
for path in "$first".*; do
  number=\${path##*.}
  case $number in '' | 0* | *[!0-9]* | ??????*) continue ;; esac
  [ -d "$path" ] && [ "$number" -gt "$newest" ] && newest=$number
done
directory=$first
[ "$newest" = 0 ] || directory=$first.$newest
content=none
if [ -e "$directory/$manifest" ]; then content=whole
elif [ -e "$directory/$volume_key" ]; then content=partial; fi
printf '%s %s\\n' "$newest" "$content"
`;

/** Looks for the results of the newest run of a job. @throws HpcsError `site` */
export async function findResults(
  transport: Transport,
  job: JobOnSite,
  options: { signal?: AbortSignal | undefined } = {},
): Promise<FoundResults> {
  const { name, workdir, jobId } = job;
  const values = {
    first: resultDirectory(workdir, name, jobId, 0),
    manifest: resultFiles.manifest,
    volume_key: resultFiles.outputVolumeKey,
  };
  const { stdout, stderr } = await run(transport, assignments(values) + search, options);
  const [, restart, content] = /^(\d+) (whole|partial|none)\n$/.exec(stdout) ?? [];
  if (content === undefined)
    throw new HpcsError(
      'site',
      'results-unreadable',
      `the results of job ${jobId} cannot be looked for in ${workdir}: ${stderr.trim()}`,
      { suggestion: 'check on the site that you can read that directory, then try again' },
    );
  return {
    directory: resultDirectory(workdir, name, jobId, Number(restart)),
    restart: Number(restart),
    content: content as FoundResults['content'],
  };
}

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CliExit } from './cli.ts';
import type { Site } from './site.ts';

/** Shell program of the images that the tests run: does what its first argument says. */
export const probe = `#!/bin/sh
out=/sd-container/output
case $1 in
  args) shift; for a in "$@"; do printf '%s\\0' "$a"; done > $out/args ;;
  exit) exit "$2" ;;
  copy) cp -a /sd-container/encrypted/. $out/data/ ;;
  list) cd /sd-container/encrypted && mkdir $out/data && cp -a . $out/data ;;
  where) pwd > $out/pwd; env > $out/env; id > $out/id ;;
  odd)
    odd=$out/$(printf 'odd\\377'); mkdir "$odd" && mkfifo "$odd/pipe"
    for name in left_out left_out.hpcs exit_code.hpcs; do ln -s "$2" $out/$name; done
    echo mine > $out/exit_code; exit 5 ;;
  deep)
    cd $out; name=patient-4711-$(printf '%0200d' 0)
    for level in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21; do mkdir $name && cd $name || exit; done ;;
  sleep) echo started > $out/early; sync; sleep "$2" ;;
  leak)
    for place in /tmp /var/tmp "$HOME" . /dev/shm; do echo "$2" > "$place/leak" && echo "$place" >> $out/written; done
    ulimit -c unlimited 2>/dev/null; sh -c 'secret='"$2"'; kill -SEGV $$' || true ;;
  *) echo "hello from $0: $*" ;;
esac
`;

/** A prepared artefact's info record on the site. */
export interface Prepared {
  info: string;
}

/** Seals an image of the local engine for alice on the sandbox's node. */
export async function prepareImage(
  site: Site,
  image: string,
  options: { name?: string; format?: string } = {},
): Promise<Prepared> {
  const name = options.name ?? `${image.replaceAll(/[^a-z0-9]+/g, '-')}.sif`;
  await site.hpcsOk(['container-prep', '-b', image, '-e', '-u', 'alice', '-c', 'nid000001', '--pull', 'never', '--data-path', name, '--data-path-at-rest', site.scratch, '--format', options.format ?? 'openpgp']); // prettier-ignore
  return { info: `${site.scratch}/${name}.info.yaml` };
}

/** Seals a directory or file for alice on the sandbox's node. */
export async function prepareData(
  site: Site,
  path: string,
  options: { name?: string; format?: string; compression?: string } = {},
): Promise<Prepared> {
  const name = options.name ?? 'data.tgz';
  await site.hpcsOk(['data-prep', '-i', path, '-u', 'alice', '-c', 'nid000001', '--data-path', name, '--data-path-at-rest', site.scratch, '--format', options.format ?? 'openpgp', '--compression', options.compression ?? 'auto']); // prettier-ignore
  return { info: `${site.scratch}/${name}.info.yaml` };
}

/** Command line of job-prep for two artefacts; what `extra` gives stands in place of the usual values. */
export function jobArguments(site: Site, image: Prepared, data: Prepared, extra: readonly string[] = []): string[] {
  const usual = { '-J': 'test', '-N': '1', '-p': 'standard', '-t': '00:10:00', '-A': 'project_462000031', '-s': site.scratch };
  const flags = extra.slice(0, extra.includes('--') ? extra.indexOf('--') : undefined);
  const rest = Object.entries(usual).filter(([flag]) => !flags.includes(flag));
  return ['job-prep', ...rest.flat(), '-ai', image.info, '-di', data.info, '-f', ...extra];
}

/** A job that ended. */
export interface Ended extends CliExit {
  jobId: string;
}

/** Submits a job and waits for its end, whatever that is. */
export async function runJob(site: Site, image: Prepared, data: Prepared, extra: readonly string[] = []): Promise<Ended> {
  const exit = await site.hpcs(jobArguments(site, image, data, extra));
  return { ...exit, jobId: /submitted job (\d+)/.exec(exit.stdout)?.[1] ?? '' };
}

/** Opens a job's results and returns the directory. */
export async function openJob(site: Site, jobId: string, extra: readonly string[] = []): Promise<string> {
  const directory = join(site.temporary, `results-${jobId}`);
  await site.hpcsOk(['job', 'results', jobId, '--output', directory, ...extra]);
  return directory;
}

/** A text file of a job's results. */
export function resultText(directory: string, name: string): Promise<string> {
  return readFile(join(directory, name), 'utf8');
}

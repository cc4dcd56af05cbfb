import type { ImageConfig } from '../record.ts';

/** One directory or file of the node inside the container. */
export interface Bind {
  source: string;
  target: string;
  readOnly?: boolean;
}

/** What is run in the container, and with what. */
export interface ContainerRun {
  apptainer: string;
  sif: string;
  /** What is run; with `entryPoint`, the arguments of the image's own entry point. */
  command: readonly string[];
  /** Whether the image's own entry point (its runscript) is run. */
  entryPoint?: boolean;
  image: Pick<ImageConfig, 'env' | 'workdir'>;
  home: Bind;
  binds: readonly Bind[];
  /** Flags of the user for Apptainer, already split into words. */
  flags: readonly string[];
  /** Directory in an encrypted volume for Apptainer's own temporary files. */
  temporary: string;
}

/** Where a program starts when its image names no directory of its own: a writable one. */
const defaultWorkdir = '/sd-container/scratch';

/** Arguments of Apptainer. Pure. Only the planned directories are bound, nothing of the node's home, environment or `/tmp`. */
export function containerArguments(run: ContainerRun): string[] {
  const workdir = run.image.workdir === '' || run.image.workdir === '/' ? defaultWorkdir : run.image.workdir;
  return [
    // Its own remarks would stand in the application's standard error.
    '--quiet',
    run.entryPoint === true ? 'run' : 'exec',
    '--containall',
    '--cleanenv',
    '--no-eval',
    '--no-mount',
    'tmp',
    '--pwd',
    workdir,
    '--home',
    `${run.home.source}:${run.home.target}`,
    ...run.binds.flatMap((bind) => ['--bind', `${bind.source}:${bind.target}${bind.readOnly === true ? ':ro' : ''}`]),
    ...run.flags,
    run.sif,
    ...run.command,
  ];
}

/** Environment of Apptainer itself: where it may write, and the image's own variables for the program inside. Pure. */
export function containerEnvironment(run: ContainerRun, path: string): Record<string, string> {
  const env: Record<string, string> = {
    PATH: path,
    LC_ALL: 'C.UTF-8',
    HOME: run.temporary,
    TMPDIR: run.temporary,
    APPTAINER_TMPDIR: run.temporary,
    APPTAINER_CACHEDIR: run.temporary,
  };
  for (const variable of run.image.env) {
    const split = variable.indexOf('=');
    // Where the home is, the plan says; Apptainer warns of an image that does.
    if (split > 0 && variable.slice(0, split) !== 'HOME')
      env[`APPTAINERENV_${variable.slice(0, split)}`] = variable.slice(split + 1);
  }
  return env;
}

/** The image's command with the user's arguments, as `docker run IMAGE ARGUMENTS` has it: arguments stand in place of CMD. Pure. */
export function applicationCommand(image: Pick<ImageConfig, 'entrypoint' | 'cmd'>, args: readonly string[]): string[] {
  return [...image.entrypoint, ...(args.length > 0 ? args : image.cmd)];
}

// Apptainer reads flags as pflag does: short ones may stand together, and B, H, W, o and S take what follows them as their value.
const looseningShort = /^-[^-BHWoS=]*[BHWofw]|^-[^-BHWoS=]*[cCe]=(false|0|f|F)/;
const looseningLong =
  /^--(bind|mount|home|workdir|writable|writable-tmpfs|fakeroot|add-caps|allow-setuid|keep-privs|overlay|fusemount|security|net|network|network-args|netns-path|sharens)(=|$)/;
const undone = /^--(contain|containall|cleanenv|no-eval|no-home|ipc|pid)=(false|0|f|F)/i;

/** Flags that undo containment, which are allowed but said aloud. Pure. @see apptainer-exec(1) */
export function looseningFlags(flags: readonly string[]): string[] {
  return flags.filter((flag) => [looseningShort, looseningLong, undone].some((form) => form.test(flag)));
}

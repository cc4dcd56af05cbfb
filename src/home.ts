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

/** Where the files of this process's user belong: what `HOME` names, else the account's home, else `/`. */
export function homeOf(env: NodeJS.ProcessEnv = process.env): string {
  return env['HOME'] || accountHome() || '/';
}

/**
 * Gives `HOME` and `SHELL` values where they have none, or are empty: oclif asks for the account of this user id in their place, for `HOME` as soon as it is
 * imported, and fails where there is no account.
 */
export function standInForAccount(env: NodeJS.ProcessEnv = process.env): void {
  env['HOME'] ||= homeOf(env);
  env['SHELL'] ||= '/bin/sh';
}

/** A path as people write it: `~/` is the home that `HOME` names, or the account's. Files and Compose hand it over as it is. */
export function expandHome(path: string, env: NodeJS.ProcessEnv = process.env): string {
  return path.startsWith('~/') ? join(homeOf(env), path.slice(2)) : path;
}

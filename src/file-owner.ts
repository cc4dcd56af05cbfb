import { existsSync, type Stats } from 'node:fs';

/**
 * Whether this process is in a container that was made for one application: of Docker or Podman, by the file that they make, or in a pod, by
 * what it has in its environment. Those of LXC and systemd-nspawn are whole systems, often with several users.
 *
 * @param exists whether a path is there
 */
export function isContained(env: NodeJS.ProcessEnv = process.env, exists: (path: string) => boolean = existsSync): boolean {
  return Boolean(env['KUBERNETES_SERVICE_HOST']) || exists('/.dockerenv') || exists('/run/.containerenv');
}

/**
 * Whether somebody else could have made or could alter what these facts are of: neither the caller's nor root's, or writable by
 * others. In a container root meets files of any owner in what is mounted there.
 *
 * @param writable permission bits that are others': the group's too, unless told otherwise
 */
export function isOthers(found: Stats, writable = 0o022): boolean {
  const own = process.getuid?.() ?? 0;
  const foreign = found.uid !== own && found.uid !== 0;
  return (found.mode & writable) !== 0 || (foreign && !(own === 0 && isContained()));
}

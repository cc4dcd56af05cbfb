import { existsSync, type Stats } from 'node:fs';

/**
 * Whether this process is in a container: of Docker or Podman, by the file that they make; of systemd-nspawn or LXC, or in a pod, by what they
 * set.
 *
 * @see systemd's Container Interface, `container`
 */
export function isContained(env: NodeJS.ProcessEnv = process.env): boolean {
  const said = ['container', 'KUBERNETES_SERVICE_HOST'].some((name) => Boolean(env[name]));
  return said || existsSync('/.dockerenv') || existsSync('/run/.containerenv');
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

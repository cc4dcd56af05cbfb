/**
 * What uploads run on the site: POSIX shell text, in which values stand as quoted variables above fixed bodies.
 */
import { assignments, quote } from '../shell.ts';
import { plain, preamble } from './files.ts';

/** Exit code of a lane: another file lies in the place of the temporary one. */
export const replacedCode = 74;

/** Exit code of {@link renameScript}: something has the name already. */
export const takenCode = 73;

/** The file that lanes write to. */
export interface LaneFile {
  /** Names that it may have, the newest first: it gets that one. */
  names: readonly string[];
  /** Where it is meant for. */
  path: string;
  /** Permission bits. */
  mode: number;
  /** Device and inode, once it is there. */
  identity: string | undefined;
  /** Seconds for which it is kept when the connection ends without a word. */
  grace: number;
}

/**
 * The first lane of a connection: makes the file, or finds it again, says `ready` with its identity, and carries segments. At the end it
 * has all of it put on disk, and says its size.
 */
export function firstLaneScript({ names, path, mode, identity, grace }: LaneFile): string {
  const values = {
    temporary: plain(names[0] ?? ''),
    path: plain(path),
    mode: mode.toString(8).padStart(4, '0'),
    identity: identity ?? '',
    grace: String(grace),
  };
  const words = names.map((name) => quote(plain(name))).join(' ');
  return laneScript(values, identity === undefined ? create : `set -- ${words}\n${resume}`);
}

/** One more lane of the same connection, which only carries segments. */
export function furtherLaneScript(temporary: string, identity: string): string {
  return laneScript({ temporary: plain(temporary), identity }, further);
}

function laneScript(values: Readonly<Record<string, string>>, beginning: string): string {
  return preamble + assignments(values) + heedPipe + beginning + carry;
}

const checkDirectory = `
directory=\${path%/*}
[ "$directory" != "$path" ] || directory=.
[ -n "$directory" ] || directory=/
[ ! -d "$path" ] || { echo 'Is a directory' >&2; exit 1; }
[ -e "$directory" ] || { echo 'directory: No such file or directory' >&2; exit 1; }
[ -d "$directory" ] || { echo 'Not a directory' >&2; exit 1; }
`;

// The owner of the file removes it; other lanes only end.
const removeAtEnd = `
drop() { rm -f -- "$temporary"; exit "$1"; }
trap 'drop 129' HUP
trap 'drop 130' INT
trap 'drop 143' TERM
`;

// What can say nothing any more is to see that, not to be ended by it: else nobody would remove the file.
const heedPipe = `
trap '' PIPE
`;

const create = `
umask 077
${checkDirectory}${removeAtEnd}
set -C
exec 3>"$temporary" || exit 1
set +C
chmod -- "$mode" /proc/self/fd/3 || drop 1
printf 'ready %s\n' "$(stat -L -c %d:%i /proc/self/fd/3)" || drop 1
`;

const checkIdentity = `[ "$(stat -L -c %d:%i /proc/self/fd/3)" = "$identity" ] || exit ${replacedCode}
`;

// Opened to be written at once, a file that is gone by now would be made anew, and nobody would remove that.
const openExisting = `
[ -f "$temporary" ] || { echo 'what was uploaded is gone: No such file or directory' >&2; exit 1; }
exec 3<"$temporary" || exit 1
exec 3<>/proc/self/fd/3 || exit 1
`;

const resume = `
for name do
  if [ "$name" != "$temporary" ] && [ -e "$name" ]; then mv -T -- "$name" "$temporary" || exit 1; fi
done
${openExisting}${checkIdentity}${removeAtEnd}
printf 'ready %s\n' "$identity"
`;

const further = `
drop() { exit "$1"; }
grace=
${openExisting}${checkIdentity}`;

/** Bytes after which the site begins to put them on disk, so that little is left to wait for at the end. */
const keepEvery = 64 * 1024 * 1024;

/** Segments from this size on have the pipe to the command widened. */
const widenFrom = 1024 * 1024;

/**
 * Gives the pipe through which sshd hands over what it received as much room as Linux lets everybody have, 1 MiB instead of 64 KiB: else
 * sshd and `dd` wait for each other 16,000 times a GiB, which takes a tenth of the processor time of both ends. Where there is no Perl, or
 * no pipe, nothing happens. In the background, where a shell gives a command no input of its own.
 *
 * @see fcntl(2), F_SETPIPE_SZ (1031); pipe(7), /proc/sys/fs/pipe-max-size
 */
const widenPipe = `{ timeout --foreground 5 perl -e 'fcntl(STDIN, 1031, 1048576)' <&4 4<&- >/dev/null 2>&1 & } 4<&0`;

// Written through the descriptor: the name could lead elsewhere by now. What ends early without a word may come back: then the file is
// kept for a while, under a name that who comes back changes. A process in the background must not hold the channel open. The system tells
// of bytes that it could not write only once, to whoever asks first: that must end everything, also the upload that goes on after a cut, for
// which the file has another temporary name.
const carry = `
self=$(exec sh -c 'echo $PPID')
keep() {
  said=$(sync "$@" /proc/self/fd/3 2>&1) || case $said in
    # What knows no fsync is as good as it gets; every other word may mean lost bytes.
    *'nvalid argument'* | *'not supported'* | *'not implemented'* | *'unrecognized'* | *'invalid option'*) ;;
    *) printf '%s\n' "$said" >&2; return 1 ;;
  esac
}
spoil() {
  rm -f -- "$temporary"
  name=$(readlink /proc/self/fd/3)
  case $name in */.*.part) rm -f -- "$name" ;; esac
}
wide=
while read -r offset size; do
  case $offset in
    ping) echo pong ;;
    end)
      wait
      keep -- || drop 1
      printf 'end %s\n' "$(stat -L -c %s /proc/self/fd/3)" || drop 1
      exit 0 ;;
    *)
      if [ -z "$wide" ] && [ "$size" -ge ${widenFrom} ]; then wide=y; ${widenPipe}; fi
      dd bs=131072 iflag=fullblock,count_bytes oflag=seek_bytes conv=notrunc,nocreat status=none \\
        count="$size" seek="$offset" of=/proc/self/fd/3 || drop 1
      printf '%s %s\n' "$offset" "$size"
      if [ "$(((offset + size) / ${keepEvery}))" -gt "$((offset / ${keepEvery}))" ]; then
        { keep -d -- || { spoil; kill -TERM "$self"; }; } </dev/null >/dev/null &
      fi ;;
  esac
done
wait
[ -n "$grace" ] || exit 0
[ "$grace" -gt 0 ] || drop 1
exec 3>&-
(trap '' HUP; sleep "$grace"; rm -f -- "$temporary") </dev/null >/dev/null 2>&1 &
exit 1
`;

/**
 * Gives the file its name. What an earlier try did, of which nobody heard, counts.
 *
 * @param replace puts it in the place of what has the name; else that stays, and the script ends with {@link takenCode}
 */
export function renameScript(
  { temporary, path, inode }: { temporary: string; path: string; inode: string },
  replace: boolean,
): string {
  const values = { temporary: plain(temporary), path: plain(path), inode };
  return preamble + assignments(values) + (replace ? replaceThere : giveFreeName) + rename;
}

/** Removes the file under its temporary name, so that no rename that is late gives it another, and under `paths`, where they are this file. */
export function removeOwnScript({ temporary, inode }: { temporary: string; inode: string }, paths: readonly string[]): string {
  const words = paths.map((path) => quote(plain(path))).join(' ');
  return `${preamble}${assignments({ temporary: plain(temporary), inode })}set -- ${words}\n${removeOwn}`;
}

const replaceThere = `
publish() {
  [ ! -d "$path" ] || { echo 'Is a directory' >&2; return 1; }
  mv -f -T -- "$temporary" "$path"
}
`;

// A hard link never replaces anything; where the file system has none, `mv -n` leaves the source when something is there.
const giveFreeName = `
publish() {
  if [ -e "$path" ] || [ -L "$path" ]; then return ${takenCode}; fi
  if said=$(ln -T -- "$temporary" "$path" 2>&1); then
    rm -f -- "$temporary" || return 1
  else
    case $said in
      *'File exists'*) return ${takenCode} ;;
      *'not permitted'* | *'not supported'* | *'not implemented'* | *'Too many links'*)
        mv -n -T -- "$temporary" "$path" || return 1
        if [ -e "$temporary" ]; then return ${takenCode}; fi ;;
      *) printf '%s\\n' "$said" >&2; return 1 ;;
    esac
  fi
}
`;

// What fails may have been done by an earlier try, whose answer was lost.
const rename = `
publish || {
  code=$?
  [ "$(stat -c %i -- "$path" 2>/dev/null)" = "$inode" ] || exit "$code"
  rm -f -- "$temporary" || exit 1
}
sync -- "\${path%/*}/" 2>/dev/null || :
`;

// Held open meanwhile: else the next file that somebody makes could have its inode.
const removeOwn = `
if [ -f "$temporary" ]; then exec 3<"$temporary"; fi
rm -f -- "$temporary" || exit 1
for path do
  [ "$(stat -c %i -- "$path" 2>/dev/null)" != "$inode" ] || rm -f -- "$path" || exit 1
done
`;

#!/bin/sh
# Entry point of the stage images: `hpcs STAGE ARGUMENTS`, or any other command of a client (`enrol`, `job results 4711`) where the first word names one.
# Started as root without a `user:`, as the original's compose files do, it becomes the owner of the mounted work directory.
# By another program, not by this one: who gave up being root itself may not be looked at by spire-agent.
set -eu

stage=$1
shift
case ${1-} in
  access | container-prep | data-prep | enrol | help | job | job-prep | login | logout | open) ;;
  *) set -- "$stage" "$@" ;;
esac
set -- node /app/bin/dev.js "$@"

place=/tmp/hpcs-client.conf
[ -e "$place" ] || place=/tmp
if [ "$(id -u)" != 0 ] || [ "$(stat -c %u "$place")" = 0 ]; then exec "$@"; fi

uid=$(stat -c %u "$place")
gid=$(stat -c %g "$place")

groups=--clear-groups
if [ "$stage" = container-prep ]; then
  socket=${DOCKER_HOST:-/var/run/docker.sock}
  before=
  for word in "$@"; do
    case $before in -d | --docker-path) socket=$word ;; esac
    case $word in -d/*) socket=${word#-d} ;; --docker-path=*) socket=${word#*=} ;; esac
    before=$word
  done
  socket=${socket#unix://}
  if [ -S "$socket" ]; then groups=--groups=$(stat -c %g "$socket"); fi
fi

# ssh wants an account. A file that is mounted is the host's own.
if ! getent passwd "$uid" >/dev/null && ! grep -q ' /etc/passwd ' /proc/self/mountinfo; then
  { echo "hpcs:x:$uid:$gid::/tmp:/bin/sh" >>/etc/passwd; } 2>/dev/null || :
fi

as_owner="setpriv --reuid=$uid --regid=$gid $groups"
# Where nobody says otherwise, HOME is root's, into which nobody else may look.
if [ -e "${HOME-}" ] && ! $as_owner test -x "$HOME"; then export HOME=/tmp; fi
exec $as_owner "$@"

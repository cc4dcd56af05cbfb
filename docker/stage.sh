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

groups=--clear-groups
socket=/var/run/docker.sock
if [ "$stage" = container-prep ] && [ -S "$socket" ]; then groups=--groups=$(stat -c %g "$socket"); fi
exec setpriv --reuid="$(stat -c %u "$place")" --regid="$(stat -c %g "$place")" "$groups" "$@"

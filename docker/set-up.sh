#!/usr/bin/env bash
# Makes this machine ready for the demo and the tests: packages, a running Docker engine, the two Debian base images; and for the tests
# alone Docker's Compose plugin and the image with Helm, which takes minutes on a bare machine.
#   set-up.sh         all of it
#   set-up.sh demo    without what only the tests need
# Does nothing that is already done. Needs root only for what is missing.
set -euo pipefail

say() { printf 'set-up: %s\n' "$*" >&2; }
fail() { printf 'set-up: error: %s\n' "$*" >&2; exit 3; }

case ${1-} in '' | demo) ;; *) fail "not known: $1; it takes demo, or nothing" ;; esac

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@" || fail "needs root for: $*"; fi
}

install_missing() {
  local missing=()
  while [ $# -gt 0 ]; do command -v "$1" >/dev/null 2>&1 || missing+=("$2"); shift 2; done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "please install: ${missing[*]}"
  say "installing ${missing[*]}"
  as_root apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

start_engine() {
  docker info >/dev/null 2>&1 && return 0
  [ -z "${DOCKER_HOST:-}" ] || fail "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST"
  install_missing dockerd docker.io iptables iptables
  say 'starting the Docker engine'
  as_root mkdir -p /var/log
  # A pid file of an engine that died with the machine would stop the new one.
  pgrep -x dockerd >/dev/null || as_root rm -f /var/run/docker.pid
  as_root sh -c 'setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &'
  for _ in $(seq 150); do docker info >/dev/null 2>&1 && return 0; sleep 0.2; done
  fail 'the Docker engine did not start; see /var/log/dockerd.log'
}

# A base image under its public name: pulled where a registry answers, made with debootstrap where none does.
base_image() { # TAG SUITE
  docker image inspect "$1" >/dev/null 2>&1 && return 0
  if timeout 120 docker pull -q "$1" >/dev/null 2>&1; then say "pulled $1"; return 0; fi
  say "no registry answers; making $1 with debootstrap"
  install_missing debootstrap debootstrap
  local root; root=$(mktemp -d)
  as_root debootstrap --variant=minbase --include=ca-certificates "$2" "$root" >"$root.log" 2>&1 ||
    fail "debootstrap $2 failed: $(tail -n 3 "$root.log")"
  as_root rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  # Behind a proxy with an authority of its own, programs in containers must trust it too.
  if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
    as_root cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/"
    as_root chroot "$root" update-ca-certificates >/dev/null 2>&1
  fi
  as_root tar -C "$root" -c . | docker import -c 'CMD ["bash"]' - "$1" >/dev/null
  as_root rm -rf "$root" "$root.log"
}

# Debian 12 has only the Compose of old; the plugin of a later Debian is one file that runs here too.
compose_plugin() {
  docker compose version >/dev/null 2>&1 && return 0
  say 'installing the Compose plugin'
  local plugins=/usr/libexec/docker/cli-plugins file
  file=$(mktemp)
  # shellcheck disable=SC2016 # the container's shell expands it
  docker run --rm --log-driver none debian:sid-slim sh -c 'cd /tmp && apt-get -qq -o Acquire::Check-Valid-Until=false update >&2 &&
    apt-get -qq -o APT::Sandbox::User=root download docker-compose >&2 && dpkg-deb --fsys-tarfile docker-compose_*.deb' |
    tar -xO --wildcards '*/cli-plugins/docker-compose' >"$file"
  as_root install -D -m 755 "$file" "$plugins/docker-compose"
  rm -f "$file"
  docker compose version >/dev/null || fail 'the Compose plugin does not run'
}

# Helm and the schemas of Kubernetes, which the chart is tested with.
helm_image() {
  local context; context=$(dirname "$0")/helm/tools
  local image; image=hpcs-test/helm:$(cat "$context"/* | sha256sum | cut -c1-12)
  docker image inspect "$image" >/dev/null 2>&1 && return 0
  say 'making the image with Helm: some minutes, once'
  docker build -q -t "$image" -t hpcs-test/helm:latest "$context" >/dev/null || fail 'the image with Helm cannot be made'
}

install_missing docker docker.io ssh openssh-client ssh-keygen openssh-client sshd openssh-server tcsh tcsh pgrep procps gocryptfs gocryptfs fusermount3 fuse3 shellcheck shellcheck openssl openssl
start_engine
base_image debian:bookworm-slim bookworm
base_image debian:sid-slim sid
[ "${1-}" != demo ] || exit 0
compose_plugin
helm_image

#!/usr/bin/env bash
# Installs what the benchmark compares with: the programs of the shell pipelines, restic, rclone, and Python with paramiko.
set -euo pipefail
missing=()
for pair in age:age zstd:zstd restic:restic rclone:rclone sshd:openssh-server ssh:openssh-client sftp:openssh-client; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
done
/usr/bin/python3 -c 'import paramiko' 2>/dev/null || missing+=(python3 python3-paramiko)
[ ${#missing[@]} -gt 0 ] || exit 0
echo "bench: installing ${missing[*]}" >&2
sudo=
[ "$(id -u)" = 0 ] || sudo='sudo -n'
$sudo apt-get -qq update
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null

#!/bin/bash
#SBATCH --job-name=jp2a-1.0
#SBATCH --nodes=2
#SBATCH --partition=standard
#SBATCH --time=1-00:00:00
#SBATCH --account=project_1
#SBATCH --nodelist=nid[003044-003045]
#SBATCH --mem=4G
#SBATCH --chdir=/scratch/project_1/alice
#SBATCH --output=/scratch/project_1/alice/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --export=NONE
#SBATCH --signal=B:TERM@60
#SBATCH --no-requeue
#SBATCH --exclusive

tool_kit='/scratch/project_1/alice/.hpcs/tool-kit-0123456789abcdef.tar.gz'
tool_kit_sha256='0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'
node_directory='/local/scratch'

set -euo pipefail
umask 077
ulimit -c 0

# Of the login environment only these go further: any other could load code, or turn the checks of certificates off.
for name in $(compgen -A function); do unset -f "$name"; done
for name in $(compgen -e); do
  case $name in
    SLURM_JOB_ID | SLURM_RESTART_COUNT | SLURMD_NODENAME) ;;
    HTTP_PROXY | HTTPS_PROXY | NO_PROXY | http_proxy | https_proxy | no_proxy) ;;
    *) export -n "${name?}" ;;
  esac
done
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

# Slurm makes the log readable to others where the submitter's mask does.
for log in "/proc/$$/fd/1" "/proc/$$/fd/2"; do
  if [ -f "$log" ] && [ -O "$log" ]; then chmod go= "$log" || true; fi
done

fail() { # EXIT-CODE MESSAGE
  echo "hpcs: error: $2" >&2
  exit "$1"
}

# A job that was killed could not remove its directory. What is in it is no secret: the tool kit, and ciphertext without a key.
for left in "$node_directory/hpcs.$(id -u)."*; do
  if [ -O "$left" ] && [ ! -L "$left" ] && read -r pid node <"$left/pid" 2>/dev/null &&
    [ "$node" = "${SLURMD_NODENAME:-}" ] && ! kill -0 "$pid" 2>/dev/null; then
    { chmod -R u+rwX -- "$left" && rm -rf -- "$left"; } 2>/dev/null || true
  fi
done

# The tool kit is copied to private storage of this node first, checked there, and only then run.
private=$(mktemp -d "$node_directory/hpcs.$(id -u).$SLURM_JOB_ID.XXXXXX") ||
  fail 5 "node-directory-unwritable: cannot write to $node_directory on this node"
trap 'rm -rf "$private"' EXIT
echo "$$ ${SLURMD_NODENAME:-}" >"$private/.pid"
mv -- "$private/.pid" "$private/pid"
cp -- "$tool_kit" "$private/kit.tar.gz" ||
  fail 5 "tool-kit-unreadable: cannot copy the tool kit $tool_kit to this node"
[ "$(sha256sum <"$private/kit.tar.gz")" = "$tool_kit_sha256  -" ] ||
  fail 7 "tool-kit-altered: the tool kit $tool_kit is not the one this job was submitted with"
tar -C "$private" --no-same-owner --no-same-permissions -xzf "$private/kit.tar.gz" ||
  fail 5 "tool-kit-unpacking: cannot unpack the tool kit in $node_directory on this node"
rm -f "$private/kit.tar.gz"
[ -x "$private/bin/node" ] ||
  fail 5 "node-directory-noexec: programs cannot be run from $node_directory on this node"

# From here one program does the rest: identity, keys, mounts, scripts, application, results, clean-up.
# It replaces this shell, so that Slurm's signals reach it, and removes the private directory itself.
export HPCS_PRIVATE="$private"
exec "$private/bin/node" "$private/hpcs-node.mjs" run <<'HPCS_PLAN'
{
 "version": 1,
 "name": "jp2a-1.0",
 "workdir": "/scratch/project_1/alice",
 "scratch": "/local/scratch",
 "apptainer": "/opt/apptainer/bin/apptainer",
 "image": {
  "path": "/scratch/project_1/alice/image.sif",
  "secretPath": "client_1a2b3c4d5/image-sif-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  "role": "client_1a2b3c4d5-image-sif-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  "spiffeId": "spiffe://example.org/c/1a2b3c4d5/s/image-sif-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  "format": "openpgp",
  "sha512": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  "size": 1048576
 },
 "data": {
  "path": "/scratch/project_1/alice/data.tgz",
  "secretPath": "client_1a2b3c4d5/data-tgz-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
  "role": "client_1a2b3c4d5-data-tgz-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
  "spiffeId": "spiffe://example.org/c/1a2b3c4d5/s/data-tgz-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
  "format": "age",
  "sha512": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
 },
 "job": {
  "secretPath": "client_1a2b3c4d5/job-hpcs-cccccccccccccccccccccccccccccccc",
  "role": "client_1a2b3c4d5-job-hpcs-cccccccccccccccccccccccccccccccc",
  "spiffeId": "spiffe://example.org/c/1a2b3c4d5/s/job-hpcs-cccccccccccccccccccccccccccccccc"
 },
 "arguments": [
  "/sd-container/encrypted/jp2a_input/image.png",
  "--width=100",
  "--output=/sd-container/output/result"
 ],
 "flags": [
  "--env",
  "TERM=xterm-256color"
 ],
 "inputScripts": {
  "directory": "/scratch/project_1/alice/checks",
  "files": [
   {
    "path": "before.sh",
    "sha256": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
   }
  ]
 },
 "outputScripts": {
  "directory": "/scratch/project_1/alice/checks",
  "files": [
   {
    "path": "after.sh",
    "sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
   }
  ]
 },
 "results": {
  "format": "openpgp",
  "publicKey": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nexample\n-----END PGP PUBLIC KEY BLOCK-----\n",
  "recipients": []
 },
 "access": {
  "mode": "agent",
  "vault": {
   "url": "https://vault.example.org:8200",
   "ca": null,
   "audience": "vault"
  },
  "agent": {
   "address": "spire.example.org",
   "port": 8081,
   "trustDomain": "example.org",
   "trustBundle": ""
  }
 },
 "hpcsServer": {
  "url": "https://hpcs.internal.example.org",
  "ca": "-----BEGIN CERTIFICATE-----\nexample\n-----END CERTIFICATE-----\n",
  "allowInsecureHttp": false
 }
}
HPCS_PLAN

#!/usr/bin/env bash
# The whole chain on real parts: a sandbox site, the three stages, and the decrypted result of a real Slurm job.
# Every command is shown as it is run.
set -euo pipefail
cd "$(dirname "$0")/.."
export HPCS_STATE_DIR="${HPCS_STATE_DIR:-$PWD/.sandbox/state}"
site=/scratch/project_462000031/alice
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

hpcs() { printf '\n$ hpcs %s\n' "$*" >&2; node bin/dev.js "$@"; }

hpcs sandbox up --directory .sandbox
export HPCS_CONFIG=.sandbox/hpcs-client.conf
docker image inspect hpcs-example/jp2a >/dev/null 2>&1 || { echo 'building the example image' >&2; docker build -q -t hpcs-example/jp2a examples/jp2a >&2; }

hpcs data-prep -i examples/jp2a_input -u alice -c nid000001 --data-path encrypted_jp2a_input.tgz --data-path-at-rest "$site"
hpcs container-prep -b hpcs-example/jp2a -e -u alice -c nid000001 --data-path encrypted_prepared_jp2a.sif --data-path-at-rest "$site"
job=$(hpcs job-prep -J jp2a -N 1 -p standard -t 00:10:00 -A project_462000031 -s "$site" \
  -ai "$site/encrypted_prepared_jp2a.sif.info.yaml" -di "$site/encrypted_jp2a_input.tgz.info.yaml" -f \
  -args '/sd-container/encrypted/jp2a_input/image.png --width=100 --output=/sd-container/output/result' | tee >(cat >&2) | sed -n 's/^submitted job //p')
hpcs job results "$job" --output "$results/jp2a"
cat "$results/jp2a/result"

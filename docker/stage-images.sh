#!/usr/bin/env bash
# Builds the three stage images from a checkout after `npm ci`. hpcs/programs, which they take programs from, comes with the sandbox.
set -euo pipefail
cd "$(dirname "$0")/.."
docker image inspect hpcs/programs >/dev/null 2>&1 || { echo 'there is no image hpcs/programs: run hpcs sandbox up first' >&2; exit 3; }
for stage in container-prep data-prep job-prep; do
  docker build -q -f docker/Dockerfile --target "$stage" -t "hpcs/$stage:latest" . >/dev/null
done

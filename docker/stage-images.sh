#!/usr/bin/env bash
# Builds the three stage images from a checkout after `npm ci`.
set -euo pipefail
cd "$(dirname "$0")/.."
for stage in container-prep data-prep job-prep; do
  docker build -q -f docker/Dockerfile --target "$stage" -t "hpcs/$stage:latest" . >/dev/null
done

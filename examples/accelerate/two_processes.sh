#!/usr/bin/env bash
# A run by two processes on one CPU machine, from the repository's root. --multi_gpu is how accelerate is told to start
# several processes on one machine, with or without GPUs: without it and without GPUs it starts a single one.
set -euo pipefail
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1  # a core each; more threads than cores slow each other down
exec accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no \
    -m cca run run.yaml "$@"

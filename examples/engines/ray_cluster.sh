#!/usr/bin/env bash
# A Ray cluster of a head and one more worker, both on this machine, and a run on it. On real machines, `ray start` runs
# once on each of them, and every one needs cca and the model.
set -euo pipefail
export RAY_USAGE_STATS_ENABLED=0
trap 'ray stop --force' EXIT
ray start --head --port 6379 --num-cpus 1 --include-dashboard false --disable-usage-stats
ray start --address 127.0.0.1:6379 --num-cpus 1 --disable-usage-stats
cca run examples/engines/ray.yaml --set ray.address=127.0.0.1:6379 --set out=runs/engines-cluster "$@"

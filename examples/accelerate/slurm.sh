#!/usr/bin/env bash
#SBATCH --job-name=cca
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@300
# A run on eight nodes of eight GPUs: sbatch slurm.sh run.yaml [--set key=value ...]
#
# One launcher a node, one process a GPU. Only process 0 writes the run folder, so it alone need see that file system;
# model and data files must be the same on every node. SLURM's TERM five minutes before the end finishes the chunk, and
# submitting the same job again, on any number of nodes, goes on from there.
# A model larger than one GPU: --set sharding=fsdp.
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export head
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch \
    --multi_gpu --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * 8))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$head" --main_process_port 29500 \
    --mixed_precision no --dynamo_backend no \
    -m cca run "$@"' cca "$@"

#!/usr/bin/env bash
# One study on nodes that Slurm gives: sbatch deploy/slurm.sh --space schedules --data-dir /data/images
# The project stands with its environment (.venv) where the job is submitted, on a disk that all nodes see.
#SBATCH --job-name=pruning-study
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --signal=INT@120
set -eu
cd "$SLURM_SUBMIT_DIR"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(.venv/bin/python -c 'import secrets; print(secrets.token_hex(32))')
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# On every node: Ray starts, the command runs on the head alone, Ray stops. Interrupted, it goes on by --resume DIR.
srun .venv/bin/ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" -- .venv/bin/python -m study.run --address auto "$@"

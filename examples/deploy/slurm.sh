#!/bin/bash
# Train one model on several machines of a Slurm cluster:
#
#     sbatch --nodes=2 examples/deploy/slurm.sh ratings.parquet movies.model --epochs 20
#
# torchrun starts the ranks of each machine, and they connect to the first machine. The log, the model and its
# checkpoint must be on a file system that all machines share, and `torchrun` must be on the PATH of all. Two minutes
# before the time limit, Slurm sends SIGTERM. All ranks then stop after the same step, rank 0 writes the checkpoint, and
# the job is queued again and continues from it. If a machine is lost, the job continues from the last checkpoint, which
# is at most about a minute old.
#SBATCH --job-name=corerec-fit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
##SBATCH --gpus-per-node=4            (remove one # to train on GPUs, and set RANKS to as many)
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
log=$1 model=$2
shift 2
ranks=${RANKS:-1}                       # processes of each machine: one, or as many as it has GPUs
machines=$SLURM_JOB_NUM_NODES
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-1} / ranks))

stopped=""
trap 'stopped=yes; kill -TERM "$training" 2>/dev/null' TERM

# --kill-on-bad-exit: if one machine fails, the other machines need not wait for it.
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" torchrun \
    --nnodes "$machines" --nproc-per-node "$ranks" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:${PORT:-29500}" \
    -m corerec fit "$log" -o "$model" --checkpoint "$model.training" "$@" &
training=$!

code=0
wait "$training" || code=$?
if [ -n "$stopped" ]; then
    wait "$training" || true            # the first wait ended with the signal; the ranks still write the checkpoint
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"

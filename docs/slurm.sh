#!/bin/bash
# Runs a preset from its corpus to its report on two machines with eight GPUs each:
#     sbatch docs/slurm.sh spokencoco-large hybrid
# data/ and models/ must be on a disk that all machines share. A job that was stopped resumes when it is queued again;
# a model that exists is not trained again.
#SBATCH --job-name=sclip
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

preset=$1 arch=$2 seed=${3:-0}
source .venv/bin/activate
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

everywhere() {
    srun --kill-on-bad-exit torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
        --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" -m sclip "$@"
}

sclip make-corpus "$preset"
everywhere extract-features --preset "$preset"
sclip embed-clip --preset "$preset" # in one process, because pictures are the smaller part of the work
[ -d "models/$preset/$arch/seed-$seed" ] || everywhere train --preset "$preset" --arch "$arch" --seed "$seed"
everywhere evaluate --preset "$preset" --arch "$arch" --seed "$seed"
sclip report --preset "$preset"

#!/bin/bash
# A preset from its corpus to its numbers, on two machines of eight GPUs: sbatch docs/slurm.sh spokencoco-large hybrid
# data/ and models/ lie on a disk that all machines share. Stopped at any moment, it goes on when it is queued again
# (a model that is there is not trained anew).
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
sclip embed-clip --preset "$preset" # in one process: pictures are the smaller part
[ -d "models/$preset/$arch/seed-$seed" ] || everywhere train --preset "$preset" --arch "$arch" --seed "$seed"
everywhere evaluate --preset "$preset" --arch "$arch" --seed "$seed"
sclip report --preset "$preset"

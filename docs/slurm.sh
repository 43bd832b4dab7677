#!/bin/bash
# Runs a preset from its corpus to its report on two machines with eight GPUs each:
#     sbatch docs/slurm.sh spokencoco-large hybrid
# data/ and models/ must be on a disk that all machines share. A job that is stopped is queued again and resumes; a model
# that exists is not trained again. SLURM warns 60 seconds before the time is over, or when it takes the machines for
# another job. Training then saves its state within seconds. Extraction loses at most the shards that it is computing.
#SBATCH --job-name=sclip
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60
set -euo pipefail

preset=$1 arch=$2 seed=${3:-0}
source .venv/bin/activate
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

everywhere() {
    exec srun --kill-on-bad-exit torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
        --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" -m sclip "$@"
}

# The shell gets SLURM's signal, and hands it to srun, and so to the processes on all machines. Bash handles a signal only
# between two commands, so each command runs in the background.
stopped=
stop() {
    stopped=1
    [ -z "${running:-}" ] || kill -TERM "$running" 2> /dev/null || true
}
trap stop TERM INT

resumable() {
    "$@" &
    running=$!
    local status=0
    wait "$running" || status=$?
    [ -z "$stopped" ] || wait "$running" || true # until the state is saved
    if [ -n "$stopped" ]; then
        scontrol requeue "$SLURM_JOB_ID"
        exit 0
    fi
    return "$status"
}

resumable sclip make-corpus "$preset"
resumable everywhere extract-features --preset "$preset"
resumable sclip embed-clip --preset "$preset" # in one process, because pictures are the smaller part of the work
[ -d "models/$preset/$arch/seed-$seed" ] || resumable everywhere train --preset "$preset" --arch "$arch" --seed "$seed"
resumable everywhere evaluate --preset "$preset" --arch "$arch" --seed "$seed"
resumable sclip report --preset "$preset"

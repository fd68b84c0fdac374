#!/bin/bash
# Pre-train on several machines under Slurm, with one process per GPU. A preempted run is put back into the queue.
#   sbatch --nodes 4 tools/slurm_pretrain.sh svt/vitb_k400 data.train=/k400/train.csv run.output=/shared/run
# run.output must be a folder that all machines see.
#SBATCH --job-name=svt_zoo
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=10
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
export MASTER_ADDR MASTER_PORT
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

# These are the variables that torchrun sets. torchrun itself does not pass on exit status 75. Since Slurm 22.05, srun does
# not inherit --cpus-per-task from the job.
srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
  exec python -m svt_zoo pretrain "$@"' pretrain "$@"
status=$?
if [ "$status" -eq 75 ]; then # the run saved its state and asks to be resumed
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

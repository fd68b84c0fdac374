#!/bin/bash
# Pre-train on several machines under Slurm, one process a GPU; a run that is pre-empted goes back into the queue.
#   sbatch --nodes 4 tools/slurm_pretrain.sh configs/svt/vitb_k400.yaml data.train=/k400/train.csv run.output=/shared/run
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

# What torchrun would tell each process. Not torchrun itself: it would not hand on exit status 75. Since Slurm 22.05 srun
# does not take --cpus-per-task from the job by itself.
srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
  exec python tools/pretrain.py "$@"' pretrain "$@"
status=$?
if [ "$status" -eq 75 ]; then # it saved itself and wants to go on
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

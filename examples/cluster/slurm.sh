#!/bin/bash
# slurm.sh - a training run on four hosts under Slurm: sbatch slurm.sh
#
# One rank a host with all its cores. Two minutes before the time is over Slurm sends USR1 to this
# script (B:), the run saves at one step and leaves, and the job queues again; the same command goes
# on where it stopped. Where fewer hosts are free, lower --nodes: with 8 lanes the run has the same
# bits on 1 to 8.
#SBATCH --job-name=performer
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

# Where Performer was built, and the run; both on a disk that all hosts see.
PERFORMER=${PERFORMER:-$HOME/performer}
RUN=${RUN:-$HOME/runs/a}
export PATH=$PERFORMER/build/release/bin:$PATH
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
# The plugin as it was built with this cluster's MPI (engine/plugins/mpi.c), if not beside the library:
# export PERFORMER_TRANSPORT=$HOME/libperformer_mpi.so

# mpirun inside the job knows its hosts. --bind-to none: else all threads of a rank share one core.
# Where `srun --mpi=list` names pmix, this does the same:
#   srun --mpi=pmix --kill-on-bad-exit=1 performer train ...
"$PERFORMER/scripts/again" -- \
  mpirun -x PATH -x OMP_NUM_THREADS -n "$SLURM_NNODES" --map-by ppr:1:node --bind-to none \
  performer train --data "$HOME/book.txt" --length 1024 --batch 32 --lanes 8 \
  --threads "$SLURM_CPUS_PER_TASK" --out "$RUN" --continue &
again=$!

# again turns TERM into USR1 for mpirun, which hands it to all ranks and waits for them. A TERM of
# Slurm's own (scancel, or a job that is to give way, which Slurm queues again by itself) saves, too.
signal=''
trap 'woken=1 signal=USR1; kill -TERM "$again"' USR1
trap 'woken=1 signal=TERM; kill -TERM "$again"' TERM
while :; do # a trap ends the wait
  woken=''
  wait "$again"; code=$?
  [ -n "$woken" ] || break
done
if [ "$signal" = USR1 ] && [ "$code" -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"

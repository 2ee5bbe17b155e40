# shellcheck shell=bash
# Sourced by the sbatch scripts beside it, whose jobs are to go on until their work is done:
#
#   step [OPTIONS_OF_SRUN...] -- COMMAND...
#
# Slurm itself requeues a job that is preempted or loses a node. Besides, with this:
#
# - Before a job's time is over, Slurm sends SIGUSR1 to the script (--signal=B:USR1@120), which passes it
#   on. Ranks that train save a checkpoint; what is still starting ends. The job is then requeued,
#   after 90 seconds whatever happens.
# - A step that crashes or is killed is started again in the same job, three times at most.
# - Status 2 of any rank, which says that the input is bad, ends the job; so does a command that is not there.

# The last job of an array has the number of the array, which alone would stand for all of its jobs.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
deadline=

requeue() {
  exec scontrol requeue "$job"
}

pass_on() {
  echo "SIGUSR1: job $job ends its step, and is requeued"
  deadline=$((SECONDS + 90))
  scancel --signal=USR1 "$job" || : # it has no step yet
}
trap pass_on USR1

# When a rank fails, srun sends the others SIGTERM and returns the largest status: theirs, 143, would
# hide the cause.
# shellcheck disable=SC2016
rank='trap : USR1 TERM; "$@"; s=$?; case $s in 2 | 126 | 127) exit 202 ;; 138) exit 201 ;; esac; exit $s'

step() {
  local attempt options=() srun status
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  for attempt in 1 2 3 4; do
    [ -z "$deadline" ] || requeue
    # srun has taken no --cpus-per-task from sbatch since Slurm 22.05.
    srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 "${options[@]}" \
      bash -c "$rank" rank "$@" &
    srun=$!
    while kill -0 "$srun" 2>/dev/null; do
      [ -z "$deadline" ] || [ "$SECONDS" -lt "$deadline" ] || requeue
      sleep 1
    done
    status=0
    wait "$srun" || status=$?
    case $status in
      0) return ;;
      201) requeue ;; # stopped by SIGUSR1
      202) exit 2 ;;
    esac
    echo "attempt $attempt of 4 ended with status $status"
  done
  exit "$status"
}

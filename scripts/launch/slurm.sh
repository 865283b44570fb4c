#!/usr/bin/env bash
# A job of Slurm with one task for each GPU, on one node or several. Submit it in the checkout:
#
#   sbatch --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 --cpus-per-task 8 --time 24:00:00 \
#       scripts/launch/slurm.sh pretrain.py --config FILE --output_dir runs/base
#
# An array is one run for each number: in every argument, %a becomes the number of the array task.
#
#   sbatch --array 1-3 … scripts/launch/slurm.sh train_vqa.py --config FILE --output_dir runs/vqa-%a --seed %a
#
# A job that was preempted or lost its node starts again and goes on from the newest train state; so does one that is
# near its time limit. Nothing is saved at that moment: the steps since the last validation are taken once more.
#SBATCH --job-name=uniter
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail
# Slurm runs a copy of this file; what belongs to it is where the job was submitted.
here="${SLURM_SUBMIT_DIR:-.}/scripts/launch"
if [ -z "${SLURM_JOB_ID:-}" ] || [ ! -f "$here/common.sh" ]; then
    echo "error: not a job of Slurm, or not submitted in the checkout; expected: sbatch … scripts/launch/slurm.sh SCRIPT.py …" >&2
    exit 2
fi
cd "$SLURM_SUBMIT_DIR"
# shellcheck source=scripts/launch/common.sh
. "$here/common.sh"

[ "$TRAINS" = no ] || [ -n "$OUTPUT_DIR" ] || fail "no --output_dir among the arguments; a job that starts again needs it there"
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    case "$TRAINS $OUTPUT_DIR" in yes*%a*) ;; yes*) fail "every task of an array needs a folder of its own: put %a into --output_dir" ;; esac
    COMMAND=("${COMMAND[@]//"%a"/$SLURM_ARRAY_TASK_ID}") OUTPUT_DIR="${OUTPUT_DIR//"%a"/$SLURM_ARRAY_TASK_ID}"
fi
tasks="${SLURM_TASKS_PER_NODE:-1}"
tasks="${tasks%%[(,]*}" # of the first node: the form is 8(x2),4
if [ -n "${SLURM_GPUS_ON_NODE:-}" ] && [ "$SLURM_GPUS_ON_NODE" != "$tasks" ]; then
    echo "warning: $tasks tasks and $SLURM_GPUS_ON_NODE GPUs on a node; a task uses one GPU (--ntasks-per-node)" >&2
fi
# srun does not take over --cpus-per-task of sbatch: without this line a task and its loader processes share one core.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

newest_checkpoint() { cat "$OUTPUT_DIR/log/newest_checkpoint.json" 2>/dev/null || true; }
checkpoint_before="$(newest_checkpoint)"
# Slurm sends USR1 to this shell alone, 2 to 3 minutes before the time limit.
start_again() {
    noticed=yes
    if [ "$(newest_checkpoint)" = "$checkpoint_before" ]; then
        echo "error: no checkpoint since this start, so starting again would end here again; give a longer --time or a smaller --valid_steps" >&2
    else
        scontrol requeue "$SLURM_JOB_ID" || echo "error: the job cannot start again by itself; submit the same line once more" >&2
    fi
}
trap start_again USR1

echo "start ${SLURM_RESTART_COUNT:-0} of job $SLURM_JOB_ID: srun ${COMMAND[*]}"
# One task that fails ends all: the others would wait for it. In the background, because bash runs a trap between commands.
srun --kill-on-bad-exit=1 "${COMMAND[@]}" &
while :; do
    noticed="" status=0
    wait $! || status=$?
    [ -n "$noticed" ] || exit "$status"
done

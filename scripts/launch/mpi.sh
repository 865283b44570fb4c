#!/usr/bin/env bash
# mpirun (Open MPI) or mpiexec (MPICH) on one machine or several. Once, on the first machine, in the checkout:
#
#   HOSTS=node0:8,node1:8 scripts/launch/mpi.sh pretrain.py --config FILE --output_dir runs/base
#
# HOSTS: names of the machines, each with its number of processes; default: this machine, one process for each GPU.
# MASTER_PORT: a free port on the first machine; default: a number from this shell's process. MPIRUN: the launcher (mpirun).
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

MPIRUN="${MPIRUN:-mpirun}"
command -v "$MPIRUN" >/dev/null || fail "no $MPIRUN on PATH; install Open MPI or MPICH, or name the launcher: MPIRUN=mpiexec.hydra"
read_hosts

# MPI says who the ranks are, not where they meet: the scripts talk through torch.distributed. Two runs on one machine need
# two ports; those below 32768 are not given to other programs.
export MASTER_ADDR="${MASTER_ADDR:-$FIRST_HOST}" MASTER_PORT="${MASTER_PORT:-$((10000 + $$ % 20000))}"
case "$("$MPIRUN" --version 2>/dev/null)" in
    *"Open MPI"*)
        # Other machines get the variables that are named with -x. Each process may use every core: bound to one, it would
        # share it with its loader processes.
        carried=()
        while IFS= read -r name; do carried+=(-x "$name"); done < <(
            compgen -e | grep -E '^(MASTER_(ADDR|PORT)|PATH|PYTHONPATH|LD_LIBRARY_PATH|OMP_NUM_THREADS|(TORCH|NCCL|GLOO|UNITER)_.*)$'
        )
        exec "$MPIRUN" -np "$PROCESSES" -H "$HOSTS" -bind-to none -map-by slot "${carried[@]}" "${COMMAND[@]}"
        ;;
    *HYDRA*) exec "$MPIRUN" -n "$PROCESSES" -hosts "$HOSTS" -bind-to none "${COMMAND[@]}" ;; # it carries all variables
    *) fail "$MPIRUN is neither Open MPI's mpirun nor MPICH's mpiexec; write its line from this script" ;;
esac

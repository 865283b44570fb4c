#!/usr/bin/env bash
# torchrun on one machine or several. On each machine, in the checkout, give the same line with the machine's NODE_RANK:
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 scripts/launch/torchrun.sh pretrain.py --config FILE --output_dir runs/base
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 scripts/launch/torchrun.sh pretrain.py --config FILE --output_dir runs/base
#
# NNODES: machines (1). NODE_RANK: number of this machine, from 0. MASTER_ADDR: name or address of machine 0. MASTER_PORT:
# a free port there (29500). NPROC_PER_NODE: processes on this machine (one for each GPU). In a pod of PyTorchJob, which
# counts machines as WORLD_SIZE and RANK, none need be given.
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NNODES="${NNODES:-${WORLD_SIZE:-1}}" NODE_RANK="${NODE_RANK:-${RANK:-}}" NPROC_PER_NODE="${NPROC_PER_NODE:-$(gpus)}"
[ "$NPROC_PER_NODE" -gt 0 ] || fail "no GPU found; give the number of processes on this machine: NPROC_PER_NODE=2"
if [ "$NNODES" = 1 ]; then
    meeting=(--standalone) # a free port, so that two runs on a machine do not meet
else
    [ -n "${NODE_RANK:+${MASTER_ADDR:-}}" ] ||
        fail "NNODES is $NNODES: give NODE_RANK, the number of this machine from 0, and MASTER_ADDR, the name of machine 0"
    meeting=(--nnodes "$NNODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}")
fi
set_threads "$NPROC_PER_NODE"
# Without USR1 in this list, that signal kills torchrun, and its processes live on and keep the GPUs and the output folder.
export TORCHELASTIC_SIGNALS_TO_HANDLE="${TORCHELASTIC_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}"

# exec: in a container, torchrun itself must be process 1 to get the signals.
exec "$PYTHON" -m torch.distributed.run "${meeting[@]}" --nproc-per-node "$NPROC_PER_NODE" "${COMMAND[@]:1}"

#!/usr/bin/env bash
# horovodrun on one machine or several; scripts/install_horovod.sh installs it. Once, on the first machine, in the checkout:
#
#   HOSTS=node0:8,node1:8 scripts/launch/horovod.sh pretrain.py --config FILE --output_dir runs/base
#
# HOSTS: names of the machines, each with its number of processes; default: this machine, one process for each GPU. The
# others are reached by ssh without a password, and need the same checkout and Python at the same path.
set -euo pipefail
# shellcheck source=scripts/launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command -v horovodrun >/dev/null || fail "no horovodrun beside $PYTHON or on PATH; scripts/install_horovod.sh installs it"
read_hosts

# --gloo: processes that horovodrun starts itself know that Horovod adds up their gradients; under mpirun they would not.
exec horovodrun --gloo -np "$PROCESSES" -H "$HOSTS" "${COMMAND[@]}"

#!/usr/bin/env bash
# Sets up a bare machine with Debian (12 or later) or Ubuntu (22.04 or later), or the image of the Dockerfile: the system's
# packages, then an environment with what requirements.txt pins. A second run installs what is missing and nothing else.
#
#   scripts/bootstrap.sh [--requirements FILE] [--horovod 0|1] [--dry_run]
#
# --requirements FILE   pins to install; requirements-v100.txt for a V100. Default: those that the environment has, else
#                       requirements.txt
# --horovod 1           also installs a compiler and Open MPI, and builds Horovod (scripts/install_horovod.sh)
# --dry_run             prints the packages and the steps, and does nothing
#
# It must run as root. UNITER_VENV names the folder of the environment; default: .venv in the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

refuse() {
    echo "error: $1" >&2
    exit 2
}

requirements="" horovod=0 dry_run=0
while [ $# -gt 0 ]; do
    case "$1" in
    --requirements | --horovod)
        [ $# -ge 2 ] || refuse "$1 needs a value; see the head of scripts/bootstrap.sh"
        if [ "$1" = --horovod ]; then horovod="$2"; else requirements="$2"; fi
        shift 2
        ;;
    --dry_run) dry_run=1 && shift ;;
    *) refuse "unknown argument $1; expected --requirements FILE, --horovod 0|1, --dry_run" ;;
    esac
done
case "$horovod" in 0 | 1) ;; *) refuse "--horovod $horovod; expected 0 or 1" ;; esac
[ -z "$requirements" ] || [ -f "$requirements" ] || refuse "--requirements: no file $requirements in $PWD"

# Ubuntu 22.04 has Python 3.10 under the name python3, and 3.11 beside it.
os_release="${UNITER_OS_RELEASE:-/etc/os-release}"
# shellcheck source=/dev/null
system="$(. "$os_release" 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}")" || system=""
python=""
case "$system" in
"debian "[1-9]* | "ubuntu "[1-9]*)
    read -r name version <<<"$system"
    if [ "$name" = debian ] && [ "${version%%.*}" -ge 12 ]; then python=python3; fi
    if [ "$name" = ubuntu ] && [ "${version%%.*}" -ge 23 ]; then python=python3; fi
    if [ "$system" = "ubuntu 22.04" ]; then python=python3.11; fi
    ;;
esac
[ -n "$python" ] || refuse "unknown system: $os_release says \"${system:-nothing}\"; expected Debian 12 or later, or Ubuntu \
22.04, 23 or later. On another system install Python 3.11 or later, then: pip install -r requirements.txt"

# git: the log of a run names the commit. tini: process 1 of the image, which passes signals on.
packages=(ca-certificates git tini "$python" "$python-venv")
if [ "$horovod" = 1 ]; then
    packages+=(build-essential cmake libopenmpi-dev openmpi-bin openssh-client "$python-dev")
fi
if [ "$dry_run" = 1 ]; then
    echo "packages: ${packages[*]}"
    echo "environment: ${UNITER_VENV:-$PWD/.venv} with $python and ${requirements:-requirements.txt}"
    [ "$horovod" = 0 ] || echo "then: scripts/install_horovod.sh"
    exit 0
fi
[ "$(id -u)" = 0 ] || refuse "scripts/bootstrap.sh installs packages of the system and must run as root: sudo $0"

missing=()
for package in "${packages[@]}"; do
    status="$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" || status=""
    [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install -y --no-install-recommends "${missing[@]}"
fi

export PYTHON="/usr/bin/$python" UNITER_REQUIREMENTS="$requirements"
. scripts/setup.sh requirements.txt
if [ "$horovod" = 1 ] && ! python -c "import horovod.torch" 2>/dev/null; then
    VIRTUAL_ENV="$venv" scripts/install_horovod.sh
fi
if [ -n "${SUDO_UID:-}" ]; then # so that the user of sudo can install more without root
    chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$venv"
fi
python -c "import torch; print('ready: torch', torch.__version__, 'for CUDA', torch.version.cuda)"
echo "environment: $venv (. $venv/bin/activate)"

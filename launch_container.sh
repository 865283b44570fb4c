#!/usr/bin/env bash
# Starts the image `uniter` (docker build -t uniter .) with the folders where the release's JSON looks for them: this
# checkout as /src, and /txt, /img and /pretrain (all three read-only) and /storage.
#
#   ./launch_container.sh [OPTION…] TXT_DB IMG_DIR OUTPUT PRETRAIN_DIR [COMMAND…]
#
# COMMAND is run in /src; default: a shell. CUDA_VISIBLE_DEVICES=0,2 passes these GPUs only, an empty value or -1 none.
#
# --dry_run           prints the docker command and does nothing
# --image NAME        another image
# --docker ARGUMENT   one more argument for `docker run`, such as --docker --user=1000:1000; may be repeated
if [ "${BASH_SOURCE[0]}" != "$0" ]; then # `source launch_container.sh …`, as the release's page has it
    bash "${BASH_SOURCE[0]}" "$@"
    return
fi
set -euo pipefail

usage="usage: launch_container.sh [--dry_run] [--image NAME] [--docker ARGUMENT]… TXT_DB IMG_DIR OUTPUT PRETRAIN_DIR \
[COMMAND…]"

refuse() {
    echo "error: $1" >&2
    exit 2
}

csv() { # One field of --mount and --gpus, which docker reads as CSV
    case "$1" in
    *[,\"]*) printf '"%s"' "${1//\"/\"\"}" ;;
    *) printf '%s' "$1" ;;
    esac
}

mount() { # NAME_IN_USAGE FOLDER MOUNT_POINT [,readonly]: adds a mount to `run`
    [ -d "$2" ] || refuse "$1: no folder $2; expected an existing folder (mkdir -p makes an empty one)"
    local folder
    folder="$(CDPATH='' cd -- "$2" && pwd)"
    run+=(--mount "type=bind,$(csv "src=$folder"),dst=$3${4:-}")
}

image=uniter dry_run=0 extra=()
while [ $# -gt 0 ]; do
    case "$1" in
    --image | --docker)
        [ $# -ge 2 ] || refuse "$1 needs a value; $usage"
        if [ "$1" = --image ]; then image="$2"; else extra+=("$2"); fi
        shift 2
        ;;
    --dry_run) dry_run=1 && shift ;;
    -h | --help) echo "$usage" && exit 0 ;;
    -*) refuse "unknown option $1; $usage" ;;
    *) break ;;
    esac
done
[ $# -ge 4 ] || refuse "$# folders; expected four: $usage"

run=(docker run --rm --ipc=host --workdir /src --env UNITER_CACHE=/storage/.cache) # indexes outlive the container
if [ -t 0 ] && [ -t 1 ]; then run+=(-it); fi
gpus="${CUDA_VISIBLE_DEVICES-all}"
case "$gpus" in
all) run+=(--gpus all) ;;
"" | -1) ;;
*[!A-Za-z0-9,-]* | ,* | *, | *,,*) refuse "CUDA_VISIBLE_DEVICES=$gpus; expected numbers or UUIDs of GPUs, such as 0,2" ;;
*) run+=(--gpus "\"device=$gpus\"") ;;
esac
mount checkout "$(dirname "${BASH_SOURCE[0]}")" /src
mount TXT_DB "$1" /txt ,readonly
mount IMG_DIR "$2" /img ,readonly
mount OUTPUT "$3" /storage
mount PRETRAIN_DIR "$4" /pretrain ,readonly
shift 4
run+=(${extra[@]+"${extra[@]}"} "$image" "$@")

if [ "$dry_run" = 1 ]; then
    printf '%q ' "${run[@]}"
    echo
    exit 0
fi
command -v docker >/dev/null || refuse "no command docker; install Docker and, for GPUs, the NVIDIA container toolkit"
if [ "$image" = uniter ] && ! answer="$(docker image inspect --format found uniter 2>&1)"; then
    case "$answer" in
    *"o such image"*) refuse "no image uniter; build it in the checkout: docker build -t uniter ." ;;
    *) refuse "docker does not answer: ${answer//$'\n'/ }" ;;
    esac
fi
exec "${run[@]}"

# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts of this folder, with their arguments: SCRIPT.py ARGUMENTS…
#
# It checks what all of them need, and sets COMMAND (Python, the script, its arguments), TRAINS (yes or no) and OUTPUT_DIR.
# A training script gets --resume: the first start finds no run and begins one, and every later start of the same line
# goes on from the newest train state. PYTHON names the interpreter; default: that of the folder UNITER_VENV, which the
# image sets, or of .venv, or python3.

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# The number of GPUs that this shell may use; 0 where there is none.
gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true
    else
        nvidia-smi --list-gpus 2>/dev/null | grep -c . || true
    fi
}

# The threads of each of $1 processes on this machine, unless OMP_NUM_THREADS is set. Launchers give 1, which makes the
# preparation of batches slow, or nothing, and then every process takes all cores.
set_threads() {
    local each=$(($(nproc) / $1))
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((each > 1 ? each : 1))}"
}

# The machines of HOSTS, NAME:PROCESSES with commas between them; default: this one, a process for each GPU. Sets HOSTS,
# FIRST_HOST and PROCESSES, their number on all machines together, and the threads of each.
read_hosts() {
    HOSTS="${HOSTS:-localhost:$(gpus)}"
    [ "$HOSTS" != localhost:0 ] || fail "no GPU found; give the number of processes: HOSTS=localhost:2"
    [[ "$HOSTS" =~ ^[^,:]+:[1-9][0-9]*(,[^,:]+:[1-9][0-9]*)*$ ]] ||
        fail "HOSTS is $HOSTS; expected NAME:PROCESSES, with commas between machines: node0:8,node1:8"
    case "$HOSTS" in localhost*,* | 127.*,*) fail "HOSTS is $HOSTS; the others cannot reach ${HOSTS%%:*}: give this machine's name" ;; esac
    FIRST_HOST="${HOSTS%%:*}"
    local first_processes="${HOSTS#*:}"
    PROCESSES=$(($(tr ',' '\n' <<<"$HOSTS" | sed 's/.*://' | paste -sd+)))
    set_threads "${first_processes%%,*}"
}

[ $# -gt 0 ] || fail "no script given; expected: $0 SCRIPT.py ARGUMENTS…, such as pretrain.py --config FILE --output_dir FOLDER"
[ -f "$1" ] || fail "no script $1 in $PWD; start this in the checkout, with the name of a script such as pretrain.py"

if [ -z "${PYTHON:-}" ]; then
    PYTHON="${UNITER_VENV:-$PWD/.venv}/bin/python"
    [ -x "$PYTHON" ] || PYTHON=python3
fi
PYTHON="$(command -v "$PYTHON" || true)"
[ -n "$PYTHON" ] || fail "no Python; set PYTHON to the interpreter with the packages of requirements.txt"
"$PYTHON" -c 'import importlib.util, sys; sys.exit(sys.version_info < (3, 11) or not importlib.util.find_spec("torch"))' ||
    fail "$PYTHON is older than 3.11 or has no torch; set PYTHON to the interpreter with the packages of requirements.txt"
export PATH="${PYTHON%/*}:$PATH" # the launchers that pip installs are beside it

TRAINS=no OUTPUT_DIR=""
case "${1##*/}" in pretrain*.py | train_*.py) TRAINS=yes ;; esac
adds_resume=$TRAINS word_before=""
for word in "$@"; do
    case "$word" in
        --output[-_]dir=*) OUTPUT_DIR="${word#*=}" ;;
        --eval[-_]only | --resume | --no[-_]resume) adds_resume=no ;;
    esac
    case "$word_before" in --output[-_]dir) OUTPUT_DIR="$word" ;; esac
    word_before="$word"
done
COMMAND=("$PYTHON" "$@")
[ "$adds_resume" = no ] || COMMAND+=(--resume)

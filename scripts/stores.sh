# shellcheck shell=bash
# Sourced by the create_*.sh scripts: what they share. PYTHON names the interpreter; default: that of the folder
# UNITER_VENV, which the image sets, or .venv of the checkout; else python3.

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

CHECKOUT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -z "${PYTHON:-}" ]; then
    PYTHON="${UNITER_VENV:-$CHECKOUT/.venv}/bin/python"
    [ -x "$PYTHON" ] || PYTHON=python3
fi

# Sets VOCAB; $1: the folder where it is by default.
needs_vocabulary() {
    VOCAB="${VOCAB:-$1/vocab.txt}"
    [ -e "$VOCAB" ] || fail "no $VOCAB; name the vocab.txt of your BERT, or its folder: VOCAB=FILE $0 …"
}

# Makes the text store $1 with prepro.py and the other arguments, unless it exists.
stores=0
make_store() {
    local store="$1"
    shift
    stores=$((stores + 1))
    if [ -e "$store" ]; then
        echo "$store exists and stays as it is"
        return
    fi
    echo "making $store"
    mkdir -p "$(dirname "$store")"
    "$PYTHON" "$CHECKOUT/prepro.py" "$@" --vocab "$VOCAB" --output "$store"
}

# Ends the script with an error if it found no annotations, which it looked for in $1.
says_what_was_made() {
    [ "$stores" -gt 0 ] || fail "no annotations; expected one or more of $1"
    echo "done: $stores stores"
}

# Sourced by demo.sh and test.sh: makes .venv if there is none and installs what is pinned in the file named by $1,
# unless that very file has been installed before. PYTHON names the interpreter for a new .venv; default: python3.
if [ ! -x .venv/bin/python ]; then
    if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "error: ${PYTHON:-python3} is not Python 3.11 or later; name another: PYTHON=python3.12 $0" >&2
        exit 2
    fi
    "${PYTHON:-python3}" -m venv .venv
fi
stamp=".venv/.installed-$1"
pinned="$(cat requirements.txt "$1")"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$pinned" ]; then
    echo "installing $1 into .venv (once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
    printf '%s\n' "$pinned" >"$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"

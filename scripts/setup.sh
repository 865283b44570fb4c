# Sourced by bootstrap.sh, demo.sh and test.sh: makes the environment if there is none and installs what is pinned in the
# file named by $1, unless those very pins have been installed before. It reads three variables:
# PYTHON: the interpreter of a new environment; default: python3.
# UNITER_VENV: the folder of the environment; default: .venv.
# UNITER_REQUIREMENTS: a file that takes the place of requirements.txt, such as requirements-v100.txt. The environment
# remembers it, so that the tests do not put another torch into an environment that was made for a V100.
venv="${UNITER_VENV:-.venv}"
case "$venv" in /*) ;; *) venv="$PWD/$venv" ;; esac
if [ ! -x "$venv/bin/pip" ]; then # pip comes last: without it, what made the environment was stopped
    if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "error: ${PYTHON:-python3} is not Python 3.11 or later; name another: PYTHON=python3.12 $0" >&2
        exit 2
    fi
    "${PYTHON:-python3}" -m venv "$venv"
fi
remembered="$(cat "$venv/.requirements" 2>/dev/null || echo requirements.txt)"
base="${UNITER_REQUIREMENTS:-$remembered}"
if [ ! -f "$base" ]; then
    echo "error: no file $base in $PWD; expected requirements.txt or another file of pins: set UNITER_REQUIREMENTS" >&2
    exit 2
fi
if [ "$base" != "$remembered" ]; then
    rm -f "$venv"/.installed-*
fi
echo "$base" >"$venv/.requirements"
stamp="$venv/.installed-$1"
pinned="$(cat "$base" "$1")"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$pinned" ]; then
    echo "installing $1 into $venv (once)"
    { # $1 names requirements.txt, whose place "$base" may have taken
        cat "$base"
        [ "$1" = requirements.txt ] || grep -v '^-r' "$1"
    } >"$venv/.pins.txt"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$venv/.pins.txt"
    printf '%s\n' "$pinned" >"$stamp"
fi
export PATH="$venv/bin:$PATH"

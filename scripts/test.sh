#!/usr/bin/env bash
# Lint, types and tests, on two cores. `--fast` leaves out the slow tests. Other arguments go to pytest: `-n 0` runs the
# tests in one process, as a debugger needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "${1:-}" = "--fast" ]; then
    shift
    set -- -m "not slow" "$@"
fi
. scripts/setup.sh requirements-dev.txt
ruff check .
ruff format --check .
mypy
exec python -m pytest -n 2 --dist loadfile "$@"

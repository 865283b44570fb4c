#!/usr/bin/env bash
# Lint, types and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh requirements-dev.txt
ruff check .
ruff format --check .
mypy
exec python -m pytest "$@"

#!/usr/bin/env bash
# The main job on generated data: pictures and texts → stores → pre-training → VQA finetuning → submission file.
# `--compare` adds the blind and from-scratch controls; all options: python -m scripts.demo --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh requirements.txt
exec python -m scripts.demo "$@"

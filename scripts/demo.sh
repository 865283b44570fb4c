#!/usr/bin/env bash
# The whole pipeline on generated data: images and texts → stores → pre-training → VQA finetuning → submission file.
# `--all` also runs all other tasks. `--all --table` adds two baselines: models trained from scratch and models that see
# no image. All options: python -m scripts.demo --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh requirements.txt
exec python -m scripts.demo "$@"

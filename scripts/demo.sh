#!/usr/bin/env bash
# The main job on generated data: pictures and texts → stores → pre-training → VQA finetuning → submission file.
# `--all` does every other task too, `--all --table` with what models from scratch and blind ones reach; `--compare` adds
# these controls for VQA over three seeds; all options: python -m scripts.demo --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh requirements.txt
exec python -m scripts.demo "$@"

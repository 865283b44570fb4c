#!/usr/bin/env bash
# NLVR2's annotations to text stores, as the release's script of this name:
#
#   scripts/create_txtdb.sh OUT_DIR ANN_DIR [OPTIONS of prepro.py]
#
# ANN_DIR holds train.json, dev.json and test1.json of NLVR2, or some of them, and missing_nlvr2_imgs.json of the release
# if there is one. OUT_DIR gets nlvr2_train.db, nlvr2_dev.db, nlvr2_test1.db. Nothing is downloaded: VOCAB names the
# vocab.txt of your BERT (default: ANN_DIR/vocab.txt). Stores that exist stay as they are.
set -euo pipefail
# shellcheck source=scripts/stores.sh
. "$(dirname "${BASH_SOURCE[0]}")/stores.sh"
[ $# -ge 2 ] || fail "expected: $0 OUT_DIR ANN_DIR"
out_dir="$1" ann_dir="$2"
shift 2
needs_vocabulary "$ann_dir"
missing="$ann_dir/missing_nlvr2_imgs.json"
if [ -f "$missing" ]; then
    set -- --missing_imgs "$missing" "$@"
else
    echo "no $missing: texts are kept whose images may have no features"
fi

for split in train dev test1; do
    if [ -f "$ann_dir/$split.json" ]; then
        make_store "$out_dir/nlvr2_$split.db" nlvr2 --annotations "$ann_dir/$split.json" "$@"
    fi
done
says_what_was_made "$ann_dir/{train,dev,test1}.json"

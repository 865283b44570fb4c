#!/usr/bin/env bash
# The annotations of RefCOCO, RefCOCO+ and RefCOCOg to text stores, as the release's script of this name:
#
#   scripts/create_txtdb_re.sh OUT_DIR ANN_DIR [OPTIONS of prepro.py]
#
# ANN_DIR holds refcoco/, refcoco+/ and refcocog/, or some of them, each with instances.json and refs(unc).p (RefCOCOg:
# refs(umd).p), and iid2bb_id/iid_to_ann_ids.json. OUT_DIR gets refcoco_train.db and so on. Nothing is downloaded: VOCAB
# names the vocab.txt of your BERT (default: ANN_DIR/vocab.txt). Stores that exist stay as they are.
set -euo pipefail
# shellcheck source=scripts/stores.sh
. "$(dirname "${BASH_SOURCE[0]}")/stores.sh"
[ $# -ge 2 ] || fail "expected: $0 OUT_DIR ANN_DIR"
out_dir="$1" ann_dir="$2"
shift 2
needs_vocabulary "$ann_dir"
order="$ann_dir/iid2bb_id/iid_to_ann_ids.json"
[ -f "$order" ] || fail "no $order, the order in which the boxes of an image were extracted; scripts/describe_regions.py --boxes writes it beside the features"

for dataset in refcoco refcoco+ refcocog; do
    refs="refs(unc).p" splits="train val testA testB"
    if [ "$dataset" = refcocog ]; then refs="refs(umd).p" splits="train val test"; fi
    if [ -f "$ann_dir/$dataset/$refs" ]; then
        for split in $splits; do
            make_store "$out_dir/${dataset}_$split.db" re --refs "$ann_dir/$dataset/$refs" \
                --instances "$ann_dir/$dataset/instances.json" --iid_to_ann_ids "$order" --split "$split" "$@"
        done
    fi
done
says_what_was_made "$ann_dir/{refcoco,refcoco+,refcocog}/refs(…).p"

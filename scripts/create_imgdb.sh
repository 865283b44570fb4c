#!/usr/bin/env bash
# A folder of .npz files, one for each image, to an image store, as the release's script of this name:
#
#   scripts/create_imgdb.sh NPZ_DIR OUT_DIR [OPTIONS of convert_imgdir.py]
#
# The store is OUT_DIR/NAME, where NAME is that of the folder NPZ_DIR.
set -euo pipefail
# shellcheck source=scripts/stores.sh
. "$(dirname "${BASH_SOURCE[0]}")/stores.sh"
[ $# -ge 2 ] || fail "expected: $0 NPZ_DIR OUT_DIR"
npz_dir="${1%/}" out_dir="$2"
shift 2
exec "$PYTHON" "$CHECKOUT/scripts/convert_imgdir.py" --img_dir "$npz_dir" --output "$out_dir/${npz_dir##*/}" "$@"

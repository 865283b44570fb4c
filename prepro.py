"""Convert official annotation files to a text store (text LMDB), with one subcommand per dataset.

    python prepro.py captions --annotations captions_val2014.json --output txt_db/coco.db --vocab vocab.txt
    python prepro.py captions --jsonl my_captions.jsonl --output txt_db/mine.db --vocab vocab.txt
    python prepro.py itm --karpathy dataset_coco.json --part val --output txt_db/itm_coco_val.db --vocab vocab.txt
    python prepro.py vqa --questions Q_train.json Q_val.json --annotations A_train.json A_val.json \\
        --output txt_db/vqa_trainval.db --vocab vocab.txt
    python prepro.py ve --annotations snli_ve_dev.jsonl --output txt_db/ve_dev.db --vocab vocab.txt
    python prepro.py nlvr2 --annotations dev.json --output txt_db/nlvr2_dev.db --vocab vocab.txt
    python prepro.py re --refs "refs(unc).p" --instances instances.json --iid_to_ann_ids iid_to_ann_ids.json \\
        --split val --output txt_db/refcoco_val.db --vocab vocab.txt
    python prepro.py vcr --annotations val.jsonl --metadata vcr1images --output txt_db/vcr_val.db --vocab vocab.txt

Each text becomes one record: `input_ids` (word pieces without [CLS] and [SEP]), `img_fname` (the key of its image
in the image store) and the fields of its task. Long texts are kept; training leaves them out (`max_txt_len`).
Every input file may be gzipped. The release's command line (`--task nlvr|re`, no subcommand) works too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from prepare.command_line import command_line, shared_options
from prepare.left_out import LeftOut
from prepare.referring import prepare_re
from prepare.texts import prepare_captions, prepare_itm, prepare_nlvr2, prepare_ve, prepare_vqa
from prepare.vcr import prepare_vcr
from utils.errors import InputError, exit_on_input_error

PREPARE = {
    "captions": prepare_captions,
    "itm": prepare_itm,
    "vqa": prepare_vqa,
    "ve": prepare_ve,
    "nlvr2": prepare_nlvr2,
    "re": prepare_re,
    "vcr": prepare_vcr,
    "nlvr": prepare_nlvr2,  # the release's name of NLVR2
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand that the command line names."""
    argv = sys.argv[1:] if argv is None else list(argv)
    is_release_form = bool(argv) and argv[0].startswith("-") and any(word.split("=")[0] == "--task" for word in argv)
    args = parse_release_form(argv) if is_release_form else command_line(__doc__).parse_args(argv)
    left_out = LeftOut(args.output, args.skip_bad)
    if Path(args.output).exists():
        raise InputError("the output exists already", file=args.output, remedy="remove it, or give another --output")
    with left_out.collecting():
        PREPARE[args.task](args)


def parse_release_form(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the release's command line, which has two tasks. For `re` the split is part of the output's name."""
    parser = argparse.ArgumentParser(parents=[shared_options("the dataset's own")])
    parser.add_argument(
        "--annotations", nargs="+", required=True, help="annotation files; re: refs, instances, iid_to_ann_ids"
    )
    parser.add_argument("--task", required=True, choices=["nlvr", "nlvr2", "re"], help="dataset of the annotations")
    parser.add_argument("--missing_imgs", metavar="JSON", help="nlvr: list of the images without features")
    args = parser.parse_args(argv)
    if args.task == "re":
        if len(args.annotations) != 3:
            raise InputError(
                "--task re needs three annotation files",
                key="--annotations",
                found=" ".join(args.annotations),
                expected="refs(*).p, instances.json, iid_to_ann_ids.json, in this order",
            )
        args.refs, args.instances, args.iid_to_ann_ids = args.annotations
        dataset, *split = Path(args.output).name.split(".")[0].split("_")
        if not split:
            raise InputError(
                "the name of the output contains no split",
                key="--output",
                found=args.output,
                expected=f"{dataset}_SPLIT_….db, such as refcoco_testA_bert-base-cased.db",
                remedy="give the output such a name, or use the subcommand: prepro.py re --split SPLIT",
            )
        args.split = split[0]
    return args


if __name__ == "__main__":
    exit_on_input_error(main)

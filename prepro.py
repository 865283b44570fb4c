"""Official annotation files to a text store (text LMDB), one subcommand a dataset.

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

A text becomes one record: `input_ids` (word pieces without [CLS] and [SEP]), `img_fname` (its picture's key in
the image store) and what its task needs. None is dropped for its length: training does that (`max_txt_len`).
Every file may be gzipped. The release's own command, `--task nlvr|re` in place of a subcommand, is understood too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from prepare.image_names import (
    COCO_IMG_NAME,
    FLICKR_IMG_NAME,
    NLVR2_IMG_NAME,
    OWN_IMG_NAME,
    RE_IMG_NAME,
    VCR_GT_IMG_NAME,
    VCR_IMG_NAME,
)
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
    "nlvr": prepare_nlvr2,  # the release's name for it
}
Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand of the command line."""
    argv = sys.argv[1:] if argv is None else list(argv)
    is_release_form = bool(argv) and argv[0].startswith("-") and any(word.split("=")[0] == "--task" for word in argv)
    args = parse_release_form(argv) if is_release_form else command_line().parse_args(argv)
    if Path(args.output).exists():
        raise InputError("the output exists already", file=args.output, remedy="remove it, or name another")
    PREPARE[args.task](args)


def parse_release_form(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the release's command line, which knows two tasks; `re`'s split is in the output's name."""
    parser = argparse.ArgumentParser(parents=[shared_options("the task's own")])
    parser.add_argument("--annotations", nargs="+", required=True, help="re: refs, instances, iid_to_ann_ids")
    parser.add_argument("--task", required=True, choices=["nlvr", "nlvr2", "re"], help="dataset of the annotations")
    parser.add_argument("--missing_imgs", metavar="JSON", help="nlvr: list of pictures without features")
    args = parser.parse_args(argv)
    if args.task == "re":
        if len(args.annotations) != 3:
            raise InputError(
                "--task re takes three files",
                key="--annotations",
                found=" ".join(args.annotations),
                expected="refs(*).p, instances.json, iid_to_ann_ids.json, in this order",
            )
        args.refs, args.instances, args.iid_to_ann_ids = args.annotations
        dataset, *split = Path(args.output).name.split(".")[0].split("_")
        if not split:
            raise InputError(
                "no split in the name of the output",
                key="--output",
                found=args.output,
                expected=f"{dataset}_SPLIT_….db, such as refcoco_testA_bert-base-cased.db",
                remedy="name it so, or use the subcommand: prepro.py re --split SPLIT",
            )
        args.split = split[0]
    return args


def shared_options(img_name: str) -> argparse.ArgumentParser:
    """The options of every subcommand; `img_name`: its rule for names of pictures."""
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--output", required=True, metavar="NAME.db", help="folder to write; must not exist")
    add(
        "--vocab",
        "--toker",
        required=True,
        metavar="PATH",
        help="vocab.txt of the BERT weights to be used, or a folder that holds it; nothing is downloaded",
    )
    add("--do_lower_case", action="store_true", help="for uncased vocabularies (the release's is cased)")
    add(
        "--img_name",
        metavar="FORMAT",
        help=f"keys of the image store, over {{split}}, {{image_id}}, {{file_name}}, {{stem}}; default: {img_name}",
    )
    add("--image_list", metavar="FILE", help="keep only these images: a file name or number a line (or both)")
    add("--exclude_images", metavar="FILE", help="leave these images out, listed in the same way")
    add("--skip_empty", action="store_true", help="leave out texts without words instead of refusing the file")
    return shared


def command_line() -> argparse.ArgumentParser:
    """The parser with one subcommand a dataset, each with the shared options; .gz files are read too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="DATASET")
    add_captions(tasks)
    add_itm(tasks)
    add_vqa(tasks)
    add_ve(tasks)
    add_nlvr2(tasks)
    add_re(tasks)
    add_vcr(tasks)
    return parser


def subcommand(tasks: Subcommands, name: str, img_name: str, help: str) -> argparse.ArgumentParser:
    """A subcommand with the shared options."""
    return tasks.add_parser(name, parents=[shared_options(img_name)], help=help, description=help)


def add_captions(tasks: Subcommands) -> None:
    names = f"{COCO_IMG_NAME} for COCO, {OWN_IMG_NAME} for --jsonl"
    captions = subcommand(tasks, "captions", names, "COCO captions, or a jsonl of your own")
    captions.add_argument("--split", help="COCO split in image names, such as val2014; default: what the file says")
    source = captions.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", nargs="+", metavar="JSON", help="COCO captions files; .gz is read too")
    source.add_argument(
        "--jsonl", nargs="+", metavar="FILE", help='one {"id": ..., "image": file name, "text": ...} a line'
    )


def add_itm(tasks: Subcommands) -> None:
    names = f"{COCO_IMG_NAME} for COCO, {FLICKR_IMG_NAME} for Flickr30k"
    add = subcommand(tasks, "itm", names, "captions of a Karpathy split, for retrieval").add_argument
    add("--karpathy", required=True, metavar="JSON", help="Karpathy's dataset_coco.json or dataset_flickr30k.json")
    add("--part", required=True, nargs="+", choices=["train", "restval", "val", "test"], help="parts of the split")


def add_vqa(tasks: Subcommands) -> None:
    add = subcommand(tasks, "vqa", COCO_IMG_NAME, "VQA v2 questions and answers").add_argument
    add("--split", help="COCO split in image names, such as val2014; default: what the questions file says")
    add("--questions", nargs="+", required=True, metavar="JSON", help="questions files; .gz is read too")
    add("--annotations", nargs="+", default=[], metavar="JSON", help="their annotations files; none for test")
    add(
        "--ans2label",
        metavar="FILE",
        help="use this answer vocabulary (for validation: the training store's ans2label.json); "
        '"release": the 3,129 answers of the release, which its finetuned checkpoints need',
    )
    add(
        "--num_answers",
        type=int,
        default=3129,
        help="otherwise: make a vocabulary of this many most frequent majority answers (paper A.2: 3129); "
        "ties in alphabetical order",
    )


def add_ve(tasks: Subcommands) -> None:
    add = subcommand(tasks, "ve", FLICKR_IMG_NAME, "visual entailment (SNLI-VE, on Flickr30k)").add_argument
    add("--annotations", nargs="+", required=True, metavar="JSONL", help="any of snli_ve_{train,dev,test}.jsonl")


def add_nlvr2(tasks: Subcommands) -> None:
    add = subcommand(tasks, "nlvr2", NLVR2_IMG_NAME, "NLVR2 sentences about two pictures").add_argument
    add("--annotations", nargs="+", required=True, metavar="JSONL", help="any of train.json, dev.json, test1.json")
    add("--missing_imgs", metavar="JSON", help="list of keys of pictures without features: their texts are left out")


def add_re(tasks: Subcommands) -> None:
    help = "referring expressions: RefCOCO, RefCOCO+ (refs(unc).p), RefCOCOg (refs(umd).p: the UMD split)"
    add = subcommand(tasks, "re", RE_IMG_NAME, help).add_argument
    add("--refs", required=True, metavar="P", help="refs(unc).p or refs(umd).p; read without running what is in it")
    add("--instances", required=True, metavar="JSON", help="instances.json that lies beside it")
    add(
        "--iid_to_ann_ids",
        metavar="JSON",
        help="the order in which each picture's ground-truth boxes were extracted; describe_regions.py --boxes "
        "writes it beside the features",
    )
    add(
        "--split",
        required=True,
        choices=["train", "val", "testA", "testB", "test"],
        help="RefCOCO and RefCOCO+: train, val, testA, testB; RefCOCOg: train, val, test",
    )


def add_vcr(tasks: Subcommands) -> None:
    add = subcommand(tasks, "vcr", VCR_IMG_NAME, "VCR questions, answers and rationales").add_argument
    add("--annotations", nargs="+", required=True, metavar="JSONL", help="train.jsonl, val.jsonl or test.jsonl")
    add("--metadata", required=True, metavar="FOLDER", help="vcr1images: metadata_fn of the jsonl is a file under it")
    add("--gt_img_name", metavar="FORMAT", help=f"keys of ground-truth boxes; default: {VCR_GT_IMG_NAME}")
    add(
        "--tags",
        choices=["place", "index"],
        default="place",
        help="special token of an object: the cell, of 9 × 9 over the picture, of its box; or its index (80 at most)",
    )
    add(
        "--object_names",
        choices=["before", "none"],
        default="before",
        help="write the object's name (person) before its special token, or not",
    )


if __name__ == "__main__":
    exit_on_input_error(main)

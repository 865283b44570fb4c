"""The options of `prepro.py`, one subcommand for each dataset."""

import argparse
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
from prepare.left_out import HELP
from utils.options import MOST
from utils.ranges import number

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def shared_options(img_name: str) -> argparse.ArgumentParser:
    """A parser with the options that all subcommands share. `img_name`: the default format of image names."""
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--output", required=True, metavar="NAME.db", help="text store to write; it must not exist yet")
    vocab_help = "vocab.txt of the BERT weights, or the folder that holds it; nothing is downloaded"
    add("--vocab", "--toker", required=True, metavar="PATH", help=vocab_help)
    add(
        "--do_lower_case",
        action=argparse.BooleanOptionalAction,
        help="lower-case the text, or not; default: as the vocabulary's folder says, or as its capital letters suggest",
    )
    add(
        "--img_name",
        metavar="FORMAT",
        help=f"format of image keys, from {{split}}, {{image_id}}, {{file_name}}, {{stem}}; default: {img_name}",
    )
    add(
        "--image_list",
        metavar="FILE",
        help="keep only the images in this file: a JSON list, or a file name or number in each line",
    )
    add("--exclude_images", metavar="FILE", help="leave out the images in this file (same format)")
    add("--skip_empty", action="store_true", help="leave out texts without words; default: they are an error")
    add("--skip_bad", action="store_true", help=HELP)
    return shared


def command_line(description: str) -> argparse.ArgumentParser:
    """The parser of the command line, with one subcommand per dataset. `description`: the text before the options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    """Add a subcommand with the shared options."""
    return tasks.add_parser(name, parents=[shared_options(img_name)], help=help, description=help)


def add_captions(tasks: Subcommands) -> None:
    """Add the subcommand `captions`."""
    names = f"{COCO_IMG_NAME} for COCO, {OWN_IMG_NAME} for --jsonl"
    captions = subcommand(tasks, "captions", names, "COCO captions, or a jsonl file of your own")
    captions.add_argument("--split", help="COCO split in image names, such as val2014; default: from the file")
    source = captions.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", nargs="+", metavar="JSON", help="COCO captions files, plain or .gz")
    source.add_argument(
        "--jsonl",
        nargs="+",
        metavar="FILE",
        help='your own captions: each line is {"id": ..., "image": file name, "text": ...}',
    )


def add_itm(tasks: Subcommands) -> None:
    """Add the subcommand `itm`."""
    names = f"{COCO_IMG_NAME} for COCO, {FLICKR_IMG_NAME} for Flickr30k"
    add = subcommand(tasks, "itm", names, "captions of a Karpathy split, for retrieval").add_argument
    add("--karpathy", required=True, metavar="JSON", help="Karpathy's dataset_coco.json or dataset_flickr30k.json")
    add(
        "--part",
        required=True,
        nargs="+",
        choices=["train", "restval", "val", "test"],
        help="splits to take from that file",
    )


def add_vqa(tasks: Subcommands) -> None:
    """Add the subcommand `vqa`."""
    add = subcommand(tasks, "vqa", COCO_IMG_NAME, "VQA v2 questions and answers").add_argument
    add("--split", help="COCO split in image names, such as val2014; default: from the questions file")
    add("--questions", nargs="+", required=True, metavar="JSON", help="VQA v2 questions files, plain or .gz")
    add(
        "--annotations",
        nargs="+",
        default=[],
        metavar="JSON",
        help="annotations of the questions; omit in a test split",
    )
    add(
        "--ans2label",
        metavar="FILE",
        help="answer vocabulary; for validation: ans2label.json of the training store; "
        '"release": the 3,129 answers that the release\'s finetuned checkpoints need',
    )
    add(
        "--num_answers",
        type=number(int, at_least=1, at_most=MOST),
        default=3129,
        help="size of a new vocabulary of the most frequent majority answers, without --ans2label (paper A.2: 3129)",
    )


def add_ve(tasks: Subcommands) -> None:
    """Add the subcommand `ve`."""
    add = subcommand(tasks, "ve", FLICKR_IMG_NAME, "visual entailment (SNLI-VE, on Flickr30k)").add_argument
    add(
        "--annotations", nargs="+", required=True, metavar="JSONL", help="one or more of snli_ve_{train,dev,test}.jsonl"
    )


def add_nlvr2(tasks: Subcommands) -> None:
    """Add the subcommand `nlvr2`."""
    add = subcommand(tasks, "nlvr2", NLVR2_IMG_NAME, "NLVR2 sentences about two images").add_argument
    add(
        "--annotations",
        nargs="+",
        required=True,
        metavar="JSONL",
        help="one or more of train.json, dev.json, test1.json",
    )
    add("--missing_imgs", metavar="JSON", help="list of the images without features; their texts are left out")


def add_re(tasks: Subcommands) -> None:
    """Add the subcommand `re`."""
    help = "referring expressions: RefCOCO, RefCOCO+ (refs(unc).p), RefCOCOg (refs(umd).p: the UMD split)"
    add = subcommand(tasks, "re", RE_IMG_NAME, help).add_argument
    add("--refs", required=True, metavar="P", help="refs(unc).p or refs(umd).p; no code in the pickle is run")
    add("--instances", required=True, metavar="JSON", help="instances.json from the same folder")
    add(
        "--iid_to_ann_ids",
        metavar="JSON",
        help="order in which the ground-truth boxes were extracted; describe_regions.py --boxes writes this file "
        "beside the features",
    )
    add(
        "--split",
        required=True,
        choices=["train", "val", "testA", "testB", "test"],
        help="RefCOCO and RefCOCO+: train, val, testA, testB; RefCOCOg: train, val, test",
    )


def add_vcr(tasks: Subcommands) -> None:
    """Add the subcommand `vcr`."""
    add = subcommand(tasks, "vcr", VCR_IMG_NAME, "VCR questions, answers and rationales").add_argument
    add("--annotations", nargs="+", required=True, metavar="JSONL", help="train.jsonl, val.jsonl or test.jsonl")
    add(
        "--metadata",
        required=True,
        metavar="FOLDER",
        help="folder vcr1images, which holds the files named by metadata_fn",
    )
    add("--gt_img_name", metavar="FORMAT", help=f"format of the keys of ground-truth boxes; default: {VCR_GT_IMG_NAME}")
    add(
        "--tags",
        choices=["place", "index"],
        default="place",
        help="special token of an object: the cell of its box in a 9 × 9 grid, or its index (at most 80)",
    )
    add(
        "--object_names",
        choices=["before", "none"],
        default="before",
        help="write the object's name, such as person, before its special token, or leave it out",
    )

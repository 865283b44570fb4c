"""Official annotation files to a text store (text LMDB), one subcommand a dataset.

    python prepro.py captions --annotations captions_val2014.json --output txt_db/coco.db --vocab vocab.txt
    python prepro.py captions --jsonl my_captions.jsonl --output txt_db/mine.db --vocab vocab.txt
    python prepro.py vqa --questions Q_train.json Q_val.json --annotations A_train.json A_val.json \\
        --output txt_db/vqa_trainval.db --vocab vocab.txt

A text becomes one record: `input_ids` (word pieces without [CLS] and [SEP]), `img_fname` (its picture's key in
the image store) and what its task needs. None is dropped for its length: training does that (`max_txt_len`).
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data import annotations as read
from data.image_names import COCO_IMG_NAME, OWN_IMG_NAME, ImageNames
from data.tokenizer import WordPiece
from data.txt_store import TextWriter
from utils.errors import InputError, run
from utils.files import write_json
from utils.vqa_answers import answer_vocabulary, majority_answer, read_ans2label, soft_targets


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand of the command line."""
    args = command_line().parse_args(argv)
    if Path(args.output).exists():
        raise InputError("the output exists already", file=args.output, remedy="remove it, or name another")
    {"captions": prepare_captions, "vqa": prepare_vqa}[args.task](args)


def prepare_captions(args: argparse.Namespace) -> None:
    """Captions, for pre-training and retrieval."""
    texts: Iterable[read.Text]
    if args.jsonl:
        texts = (text for path in args.jsonl for text in read.caption_lines(path))
    else:
        texts = (text for path in args.annotations for text in read.coco_captions(path))
    tokenizer = WordPiece(args.vocab, args.do_lower_case)
    names = ImageNames(args.img_name or (OWN_IMG_NAME if args.jsonl else COCO_IMG_NAME), args.split)
    counts = Counts()
    with TextWriter(args.output, meta(args, tokenizer)) as writer:
        for text, record in records(texts, tokenizer, names, counts, args):
            writer.add(text.id, record | {"sentence": text.text})
    counts.report(args.output, len(names))


def prepare_vqa(args: argparse.Namespace) -> None:
    """VQA questions, with soft targets where there are annotations."""
    answers = read_answers(args.annotations)
    ans2label: dict[str, int] = {}
    if args.num_answers < 1:
        raise InputError("an answer vocabulary needs answers", key="--num_answers", found=args.num_answers)
    if args.ans2label:
        ans2label = read_ans2label(args.ans2label)
    elif answers:
        ans2label = answer_vocabulary((majority for _, majority in answers.values()), args.num_answers)
    texts = [text for path in args.questions for text in read.vqa_questions(path)]
    check_answered(texts, answers, args.annotations)
    tokenizer = WordPiece(args.vocab, args.do_lower_case)
    names = ImageNames(args.img_name or COCO_IMG_NAME, args.split)
    counts, unreachable = Counts(), 0
    with TextWriter(args.output, meta(args, tokenizer)) as writer:
        for text, record in records(texts, tokenizer, names, counts, args):
            record |= {"question_id": int(text.id), "question": text.text}
            if answers:
                record["target"] = soft_targets(answers[text.id][0], ans2label)
                unreachable += not record["target"]["labels"]
            writer.add(text.id, record)
    if ans2label:
        write_json(Path(args.output) / "ans2label.json", ans2label)
    counts.report(args.output, len(names))
    if answers:
        print(f"  {len(ans2label):,} answers; {unreachable:,} questions have no annotator's answer among them")


def read_answers(paths: Sequence[str]) -> dict[str, tuple[list[str], str]]:
    """Question id to (annotators' answers, majority answer)."""
    answers: dict[str, tuple[list[str], str]] = {}
    for path in paths:
        for entry in read.vqa_annotations(path):
            id_, given = str(entry["question_id"]), [answer["answer"] for answer in entry["answers"]]
            if id_ in answers:
                raise InputError("a question is annotated twice", file=path, key=f"question_id {id_}")
            answers[id_] = given, entry.get("multiple_choice_answer") or majority_answer(given)
    return answers


def check_answered(texts: Sequence[read.Text], answers: dict[str, Any], paths: Sequence[str]) -> None:
    """Where annotations are given at all, every question needs its own."""
    unanswered = [text for text in texts if text.id not in answers]
    if answers and unanswered:
        raise InputError(
            "questions without annotation",
            file=unanswered[0].source,
            key="question_id " + ", ".join(text.id for text in unanswered[:5]),
            found=f"{len(unanswered):,} of {len(texts):,} questions are not in {', '.join(paths)}",
            remedy="give the annotations of the same splits as the questions",
        )


@dataclass
class Counts:
    """What happened to the texts."""

    read: int = 0
    kept: int = 0
    other_images: int = 0
    empty: int = 0
    pieces: int = 0
    longest: int = 0
    unknown: int = 0

    def report(self, output: str, images: int) -> None:
        """Print one paragraph."""
        print(f"{output}: {self.kept:,} of {self.read:,} texts, of {images:,} images")
        print(f"  left out: {self.other_images:,} by the image lists, {self.empty:,} without words")
        share = 100 * self.unknown / self.pieces
        mean = self.pieces / self.kept
        print(f"  word pieces: {mean:.1f} a text, {self.longest} in the longest, {share:.2f} % [UNK]")


def records(
    texts: Iterable[read.Text],
    tokenizer: WordPiece,
    names: ImageNames,
    counts: Counts,
    args: argparse.Namespace,
) -> Iterator[tuple[read.Text, dict[str, Any]]]:
    """The texts that are kept, with the fields that every dataset has: `input_ids`, `img_fname`."""
    wanted = read.image_list(args.image_list) if args.image_list else None
    unwanted = read.image_list(args.exclude_images) if args.exclude_images else read.ImageList()
    seen: set[str] = set()
    for text in tqdm(texts, desc="texts", unit="", unit_scale=True, disable=None):
        counts.read += 1
        if text.id in seen:
            raise InputError("an id stands twice", file=text.source, key=f"id {text.id}")
        seen.add(text.id)
        if text in unwanted or (wanted is not None and text not in wanted):
            counts.other_images += 1
            continue
        input_ids = tokenizer.encode(text.text)
        if not input_ids and not args.skip_empty:
            raise InputError(
                "a text without words",
                file=text.source,
                key=f"id {text.id}",
                found=repr(text.text),
                remedy="complete it, or leave such texts out with --skip_empty",
            )
        if not input_ids:
            counts.empty += 1
            continue
        counts.kept += 1
        counts.pieces += len(input_ids)
        counts.longest = max(counts.longest, len(input_ids))
        counts.unknown += input_ids.count(tokenizer.unk)
        yield text, {"input_ids": input_ids, "img_fname": names.name(text)}
    if not counts.kept:
        raise InputError("no text is left", found=f"{counts.read:,} read, {counts.other_images:,} of other images")


def meta(args: argparse.Namespace, tokenizer: WordPiece) -> dict[str, Any]:
    """meta.json: the command's arguments and the tokeniser, under the release's keys."""
    return {key: value for key, value in vars(args).items() if key != "vocab"} | tokenizer.meta()


def command_line() -> argparse.ArgumentParser:
    """The options of every subcommand."""
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
    add("--split", help="COCO split in image names, such as val2014; default: what the annotation file says")
    add(
        "--img_name",
        metavar="FORMAT",
        help="keys of the image store, over {split}, {image_id}, {file_name}, {stem}; default: "
        f"{COCO_IMG_NAME} for COCO, {OWN_IMG_NAME} for --jsonl",
    )
    add("--image_list", metavar="FILE", help="keep only these images: a file name or number a line (or both)")
    add("--exclude_images", metavar="FILE", help="leave these images out, listed in the same way")
    add("--skip_empty", action="store_true", help="leave out texts without words instead of refusing the file")
    return add_subcommands(shared)


def add_subcommands(shared: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser with one subcommand a dataset, each with the shared options; .gz files are read too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="DATASET")

    captions = tasks.add_parser("captions", parents=[shared], help="COCO captions, or a jsonl of your own")
    source = captions.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", nargs="+", metavar="JSON", help="COCO captions files; .gz is read too")
    source.add_argument(
        "--jsonl", nargs="+", metavar="FILE", help='one {"id": ..., "image": file name, "text": ...} a line'
    )

    vqa = tasks.add_parser("vqa", parents=[shared], help="VQA v2 questions and answers")
    add = vqa.add_argument
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
        help="otherwise: this many of the most frequent majority answers (paper A.2: 3129, "
        "on VQA v2 train and val together those of at least 9 questions); ties in alphabetical order",
    )
    return parser


if __name__ == "__main__":
    run(main)

"""Captions, retrieval, VQA, visual entailment and NLVR2 to text stores: one function per subcommand of `prepro.py`.

Each `prepare_…` takes the parsed command line, writes the store `args.output` and prints a summary.
"""

import argparse
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from toolz import mapcat

from data.txt_writer import TextWriter
from evaluation.vqa_answers import answer_vocabulary, majority_answer, read_ans2label, soft_targets
from prepare.annotations import Text, caption_lines, coco_captions, vqa_annotations, vqa_questions
from prepare.annotations_tasks import karpathy_captions, nlvr2_examples, ve_examples
from prepare.entries import Location, bad_field
from prepare.image_names import COCO_IMG_NAME, FLICKR_IMG_NAME, NLVR2_IMG_NAME, OWN_IMG_NAME
from prepare.left_out import bad_entry
from prepare.preparation import Preparation
from utils.errors import InputError
from utils.files import read_json


def prepare_captions(args: argparse.Namespace) -> None:
    """Write a store of captions, for pre-training and retrieval, from `args.jsonl` or COCO's `args.annotations`."""
    if args.jsonl:
        texts, img_name = mapcat(caption_lines, args.jsonl), OWN_IMG_NAME
    else:
        texts, img_name = mapcat(coco_captions, args.annotations), COCO_IMG_NAME
    write_with_sentences(texts, Preparation(args, img_name, args.split))


def prepare_itm(args: argparse.Namespace) -> None:
    """Write a store for retrieval from the parts `args.part` of the Karpathy split `args.karpathy`."""
    texts = karpathy_captions(args.karpathy, args.part)
    is_coco = any(text.split for text in texts)
    write_with_sentences(texts, Preparation(args, COCO_IMG_NAME if is_coco else FLICKR_IMG_NAME))


def prepare_ve(args: argparse.Namespace) -> None:
    """Write a store of SNLI-VE's hypotheses about Flickr30k images, from `args.annotations`."""
    texts, undecided_count = ve_examples(args.annotations)
    write_with_sentences(texts, Preparation(args, FLICKR_IMG_NAME))
    print(f"  {undecided_count:,} examples without a label (-) were also left out")


def prepare_nlvr2(args: argparse.Namespace) -> None:
    """Write a store of NLVR2's sentences, each about two images, from `args.annotations`."""
    missing_pictures = read_missing_pictures(args.missing_imgs)
    preparation = Preparation(args, NLVR2_IMG_NAME, missing_pictures=missing_pictures)
    with TextWriter(preparation.output, preparation.meta()) as writer:
        for text, record in preparation.records(mapcat(nlvr2_examples, args.annotations)):
            writer.add(text.id, record)
    preparation.report()


def write_with_sentences(texts: Iterable[Text], preparation: Preparation) -> None:
    """Write a store of `texts` whose records also hold the text, as `sentence`; print a summary."""
    with TextWriter(preparation.output, preparation.meta()) as writer:
        for text, record in preparation.records(texts):
            writer.add(text.id, record | {"sentence": text.text})
    preparation.report()


def read_missing_pictures(path: str | None) -> set[str]:
    """Read a JSON list of the keys of images without features; without a path, the set is empty."""
    if path is None:
        return set()
    keys = read_json(Path(path), half_pairs=True)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        expected = "a list of image names such as nlvr2_dev-0-0-img0.npz"
        raise bad_field(Location(Path(path), "the whole file"), keys, expected)
    return set(keys)


def prepare_vqa(args: argparse.Namespace) -> None:
    """Write a store of VQA questions, with soft targets if `args.annotations` are given."""
    if args.num_answers < 1:
        raise InputError(
            "the answer vocabulary would be empty", key="--num_answers", found=args.num_answers, expected="at least 1"
        )
    answers = read_answers(args.annotations)
    ans2label: dict[str, int] = {}
    if args.ans2label:
        ans2label = read_ans2label(args.ans2label)
    elif answers:
        ans2label = answer_vocabulary((majority for _, majority in answers.values()), args.num_answers)
    texts = list(mapcat(vqa_questions, args.questions))
    if args.annotations:
        check_annotated(texts, answers, args.annotations)
        texts = [text for text in texts if text.id in answers]
    preparation = Preparation(args, COCO_IMG_NAME, args.split)
    unreachable_count = 0
    with TextWriter(preparation.output, preparation.meta()) as writer:
        for text, record in preparation.records(texts):
            record |= {"question_id": int(text.id), "question": text.text}
            if answers:
                record["target"] = soft_targets(answers[text.id][0], ans2label)
                unreachable_count += not record["target"]["labels"]
            writer.add(text.id, record)
        if ans2label:
            writer.side("ans2label.json", ans2label)
    preparation.report()
    if answers:
        print(f"  {len(ans2label):,} answers in the vocabulary; {unreachable_count:,} questions have none of them")


def read_answers(paths: Sequence[str]) -> dict[str, tuple[list[str], str]]:
    """Read VQA annotations files: question id to (annotators' answers, majority answer)."""
    answers: dict[str, tuple[list[str], str]] = {}
    for path in paths:
        for entry in vqa_annotations(path):
            id_ = str(entry["question_id"])
            annotator_answers = [answer["answer"] for answer in entry["answers"]]
            with bad_entry(f"question_id {id_}"):
                if id_ in answers:
                    raise InputError(
                        "a question is annotated twice",
                        file=path,
                        key=f"question_id {id_}",
                        remedy="give each annotations file once",
                    )
                majority = entry.get("multiple_choice_answer") or majority_answer(annotator_answers)
                answers[id_] = annotator_answers, majority
    return answers


def check_annotated(texts: Sequence[Text], question_ids: Collection[str], paths: Sequence[str]) -> None:
    """Check that every question of `texts` is annotated; `InputError` otherwise.

    `question_ids`: the ids in the annotations files `paths`.
    """
    unanswered = [text for text in texts if text.id not in question_ids]
    for text in unanswered:
        with bad_entry(f"question_id {text.id}"):
            raise InputError(
                "some questions have no annotation",
                file=text.source,
                key="question_id " + ", ".join(text.id for text in unanswered[:5]),
                found=f"{len(unanswered):,} of {len(texts):,} questions are not in {', '.join(paths)}",
                remedy="give the annotations of the same splits as the questions",
            )

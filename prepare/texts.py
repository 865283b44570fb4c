"""Captions, retrieval, VQA, visual entailment and NLVR2 to text stores: one function a subcommand of `prepro.py`."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data.txt_store import TextWriter
from evaluation.vqa_answers import answer_vocabulary, majority_answer, read_ans2label, soft_targets
from prepare import annotations as read
from prepare.annotations_tasks import karpathy_captions, nlvr2_examples, ve_examples
from prepare.image_names import COCO_IMG_NAME, FLICKR_IMG_NAME, NLVR2_IMG_NAME, OWN_IMG_NAME
from prepare.preparation import Preparation
from utils.errors import InputError


def prepare_captions(args: argparse.Namespace) -> None:
    """Captions, for pre-training and retrieval."""
    texts: Iterable[read.Text]
    if args.jsonl:
        texts = (text for path in args.jsonl for text in read.caption_lines(path))
    else:
        texts = (text for path in args.annotations for text in read.coco_captions(path))
    write(texts, Preparation(args, OWN_IMG_NAME if args.jsonl else COCO_IMG_NAME, args.split))


def prepare_itm(args: argparse.Namespace) -> None:
    """Parts of a Karpathy split, for retrieval."""
    texts = karpathy_captions(args.karpathy, args.part)
    coco = any(text.split for text in texts)
    write(texts, Preparation(args, COCO_IMG_NAME if coco else FLICKR_IMG_NAME))


def prepare_ve(args: argparse.Namespace) -> None:
    """SNLI-VE's hypotheses about Flickr30k's pictures."""
    texts, undecided = ve_examples(args.annotations)
    write(texts, Preparation(args, FLICKR_IMG_NAME))
    print(f"  {undecided:,} examples without a label (-) are not among them")


def prepare_nlvr2(args: argparse.Namespace) -> None:
    """NLVR2's sentences, each with its two pictures."""
    texts = (text for path in args.annotations for text in nlvr2_examples(path))
    job = Preparation(args, NLVR2_IMG_NAME, missing=missing_pictures(args.missing_imgs))
    with TextWriter(args.output, job.meta()) as writer:
        for text, record in job.records(texts):
            writer.add(text.id, record)
    job.report()


def write(texts: Iterable[read.Text], job: Preparation) -> None:
    """A store whose records have the text itself too, as `sentence`."""
    with TextWriter(job.args.output, job.meta()) as writer:
        for text, record in job.records(texts):
            writer.add(text.id, record | {"sentence": text.text})
    job.report()


def missing_pictures(path: str | None) -> set[str]:
    """A JSON list of the keys of pictures that there are no features of."""
    if path is None:
        return set()
    keys = read.read_json(Path(path))
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise read.bad_field(Path(path), "the whole file", keys, "a list of image names, as nlvr2_dev-0-0-img0.npz")
    return set(keys)


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
    job, unreachable = Preparation(args, COCO_IMG_NAME, args.split), 0
    with TextWriter(args.output, job.meta()) as writer:
        for text, record in job.records(texts):
            record |= {"question_id": int(text.id), "question": text.text}
            if answers:
                record["target"] = soft_targets(answers[text.id][0], ans2label)
                unreachable += not record["target"]["labels"]
            writer.add(text.id, record)
        if ans2label:
            writer.side("ans2label.json", ans2label)
    job.report()
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

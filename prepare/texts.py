"""Captions, retrieval, VQA, visual entailment and NLVR2 to text stores: one function per subcommand of `prepro.py`.

Each `prepare_…` takes the parsed command line, writes the store `args.output` and prints a summary.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolz import mapcat

from data.txt_writer import TextWriter
from evaluation.vqa_answers import answer_vocabulary, majority_answer, read_ans2label, soft_targets
from prepare.annotations import Text, caption_lines, coco_captions, vqa_annotations, vqa_questions
from prepare.annotations_tasks import karpathy_captions, nlvr2_examples, ve_examples
from prepare.entries import Location, contradiction, encodable
from prepare.image_names import COCO_IMG_NAME, FLICKR_IMG_NAME, NLVR2_IMG_NAME, OWN_IMG_NAME
from prepare.left_out import bad_entry
from prepare.preparation import Preparation
from utils.errors import InputError


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
    if all(text.id.isdecimal() for text in texts):
        print("  ids are running numbers, because some lines have no pairID, or one pairID comes twice")
    print(f"  {undecided_count:,} examples without a label (-) were also left out")


def prepare_nlvr2(args: argparse.Namespace) -> None:
    """Write a store of NLVR2's sentences, each about two images, from `args.annotations`."""
    preparation = Preparation(args, NLVR2_IMG_NAME)
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


def prepare_vqa(args: argparse.Namespace) -> None:
    """Write a store of VQA questions, with soft targets if `args.annotations` are given."""
    if args.num_answers < 1:
        raise InputError(
            "the answer vocabulary would be empty", key="--num_answers", found=args.num_answers, expected="at least 1"
        )
    answers = read_answers(args.annotations)
    ans2label: dict[str, int] = read_ans2label(args.ans2label) if args.ans2label else {}
    texts = list(mapcat(vqa_questions, args.questions))
    if args.annotations:
        texts = annotated(texts, answers, args.annotations)
    if answers and not args.ans2label:  # of the annotations that are left, without bad ones
        ans2label = answer_vocabulary((answer.majority for answer in answers.values()), args.num_answers)
    preparation = Preparation(args, COCO_IMG_NAME, args.split)
    unreachable_count = 0
    with TextWriter(preparation.output, preparation.meta()) as writer:
        for text, record in preparation.records(texts):
            record |= {"question_id": int(text.id), "question": text.text}
            if answers:
                record["target"] = soft_targets(answers[text.id].answers, ans2label)
                unreachable_count += not record["target"]["labels"]
            writer.add(text.id, record)
        if ans2label:
            writer.side("ans2label.json", ans2label)
    preparation.report()
    if answers:
        print(f"  {len(ans2label):,} answers in the vocabulary; {unreachable_count:,} questions have none of them")
        if extra := len(answers.keys() - {text.id for text in texts}):
            print(f"  {extra:,} annotations have no question in these files; they count for a new vocabulary only")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the annotators answered to a question, and the number of its image where the annotations give it."""

    answers: list[str]
    majority: str
    image_id: int | None
    source: str  # the annotations file


def read_answers(paths: Sequence[str]) -> dict[str, Answers]:
    """Read VQA annotations files: question id to its answers."""
    answers: dict[str, Answers] = {}
    for path in paths:
        for entry in vqa_annotations(path):
            id_ = str(entry["question_id"])
            annotator_answers = [encodable(answer["answer"]) for answer in entry["answers"]]
            with bad_entry(f"question_id {id_}"):
                if id_ in answers:
                    raise InputError(
                        "a question is annotated twice",
                        file=path,
                        key=f"question_id {id_}",
                        remedy="give each annotations file once",
                    )
                majority = encodable(entry.get("multiple_choice_answer", "")) or majority_answer(annotator_answers)
                answers[id_] = Answers(
                    answers=annotator_answers, majority=majority, image_id=entry.get("image_id"), source=path
                )
    return answers


def annotated(texts: Sequence[Text], answers: dict[str, Answers], paths: Sequence[str]) -> list[Text]:
    """The questions that are annotated; `InputError` for one that is not, or whose annotation names another image.

    `answers`: those in the annotations files `paths`; they lose such an annotation where `--skip_bad` goes on.
    """
    unanswered = [text for text in texts if text.id not in answers]
    for text in unanswered:
        with bad_entry(f"question_id {text.id}"):
            raise InputError(
                "some questions have no annotation",
                file=text.source,
                key="question_id " + ", ".join(text.id for text in unanswered[:5]),
                found=f"{len(unanswered):,} of {len(texts):,} questions are not in {', '.join(paths)}",
                remedy="give the annotations of the same splits as the questions",
            )
    complete_texts = []
    for text in texts:
        if answer := answers.get(text.id):
            with bad_entry(f"question_id {text.id}"):
                if answer.image_id not in (None, text.image_id):
                    del answers[text.id]
                    location = Location(Path(answer.source), f"question_id {text.id}, image_id")
                    raise contradiction(location, str(answer.image_id), f"{text.image_id}, as in {text.source}")
                complete_texts.append(text)
    return complete_texts
